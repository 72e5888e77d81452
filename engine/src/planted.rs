//! `planted!(Bug)`: whether a simulation has planted this bug. In the product
//! it is the constant `false`: nothing of it is compiled in.

/// Whether a simulation has planted this [`Bug`](crate::testing::planted::Bug).
#[cfg(any(test, feature = "testing"))]
#[macro_export]
macro_rules! planted {
    ($bug:ident) => {
        $crate::testing::planted::is_planted($crate::testing::planted::Bug::$bug)
    };
}

/// Whether a simulation has planted this bug: none is in the product.
#[cfg(not(any(test, feature = "testing")))]
#[macro_export]
macro_rules! planted {
    ($bug:ident) => {
        false
    };
}
