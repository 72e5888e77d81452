//! Work that blocks, off the threads that serve others.

use tokio::runtime::{Handle, RuntimeFlavor};

/// Runs it on a thread that may block. On a runtime of one thread, as in
/// simulations, it runs in place: there nothing else could go on, and what a
/// seed has chosen must come in the same order again.
///
/// # Panics
/// When the work does.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    if Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread {
        let done = work();
        #[cfg(any(test, feature = "testing"))]
        crate::testing::disk::stalled().await;
        return done;
    }
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down; nobody waits for this any more.
            Err(_) => std::future::pending().await,
        },
    }
}
