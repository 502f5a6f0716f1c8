//! Work on all cores.

use std::thread;

/// Runs `work` once on each core, and returns the results.
pub(crate) fn on_all_cores<T: Send>(work: impl Fn() -> T + Sync) -> Vec<T> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(&work)).collect();
        workers
            .into_iter()
            .filter_map(|it| it.join().ok())
            .collect()
    })
}
