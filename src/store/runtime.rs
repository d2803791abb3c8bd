use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, sync_channel};

use tokio::runtime::{Builder, Handle, Runtime};

use super::StoreError;

/// Requests wait for the network or hand file access to the blocking pool: two threads drive thousands of them.
const WORKER_THREADS: usize = 2;

/// The runtime on which all requests of this process run. Started by the first call.
pub fn runtime() -> Result<&'static Handle, StoreError> {
    static RUNTIME: OnceLock<Result<Runtime, String>> = OnceLock::new();
    let start = || {
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(WORKER_THREADS).thread_name("annvil-store").enable_all();
        builder.build().map_err(|error| error.to_string())
    };
    match RUNTIME.get_or_init(start) {
        Ok(runtime) => Ok(runtime.handle()),
        Err(error) => Err(StoreError::Runtime(error.clone())),
    }
}

/// A request under way.
pub(super) struct Pending<T>(Receiver<T>);

impl<T: Send + 'static> Pending<T> {
    /// Runs on the shared runtime from now on. Not `Handle::block_on`, which panics where the caller itself runs
    /// in somebody's runtime, as the handlers of an HTTP server do.
    pub(super) fn start(future: impl Future<Output = T> + Send + 'static) -> Result<Self, StoreError> {
        let (sender, receiver) = sync_channel(1);
        runtime()?.spawn(async move {
            // Nobody waits any more when the reader has given up.
            let _ = sender.send(future.await);
        });
        Ok(Self(receiver))
    }

    /// # Panics
    /// If the request did.
    pub(super) fn wait(self) -> T {
        self.0.recv().expect("the request ran to its end")
    }
}

pub(super) fn wait_for<T: Send + 'static>(
    future: impl Future<Output = T> + Send + 'static,
) -> Result<T, StoreError> {
    Ok(Pending::start(future)?.wait())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_inside_another_runtime_does_not_panic() {
        let other = Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let answer = other.block_on(async { wait_for(async { 6 * 7 }).unwrap() });
        assert_eq!(answer, 42);
    }
}
