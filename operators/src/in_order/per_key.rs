//! Something of each key, by the numbers that `InOrder` gives to keys.

/// A value for each key.
pub(crate) struct PerKey<T> {
    values: Vec<T>,
}

impl<T> Default for PerKey<T> {
    fn default() -> PerKey<T> {
        PerKey { values: Vec::new() }
    }
}

impl<T: Default> PerKey<T> {
    /// The key's value, the default if it has none yet.
    pub(crate) fn of(&mut self, key: u32) -> Option<&mut T> {
        let index = usize::try_from(key).ok()?;
        if index >= self.values.len() {
            self.values.resize_with(index.checked_add(1)?, T::default);
        }
        self.values.get_mut(index)
    }

    /// The key's value, if it has one.
    pub(crate) fn get(&self, key: u32) -> Option<&T> {
        self.values.get(usize::try_from(key).ok()?)
    }

    /// All values, also of numbers that are no key's now.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.values.iter_mut()
    }

    /// Memory of all values, where each holds so much besides itself.
    pub(crate) fn bytes(&self, held: impl Fn(&T) -> usize) -> usize {
        self.values.capacity() * size_of::<T>() + self.values.iter().map(held).sum::<usize>()
    }

    /// The key is gone.
    pub(crate) fn forget(&mut self, key: u32) {
        if let Some(value) = self.of(key) {
            *value = T::default();
        }
    }

    /// Values of keys numbered in this order.
    pub(crate) fn load(&mut self, values: impl IntoIterator<Item = T>) {
        self.values.clear();
        self.values.extend(values);
    }
}
