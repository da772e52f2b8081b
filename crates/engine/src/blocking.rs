//! The one doorway from async code to blocking work: disk, kernel calls that wait, the sync crates.

use std::sync::LazyLock;

use tokio::sync::Semaphore;

/// How many blocking calls run at once; more wait their turn. They wait for the disk, not for a CPU, so there
/// may be more of them than cores; the bound keeps threads and their stacks few.
const AT_ONCE: usize = 32;

static TURNS: LazyLock<Semaphore> = LazyLock::new(|| Semaphore::new(AT_ONCE));

/// Runs `work` where it may block. Work that was begun is finished even if the caller goes away.
///
/// # Panics
/// If `work` does.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    // The semaphore is never closed.
    let turn = TURNS.acquire().await.ok();
    let value = long_blocking(work).await;
    drop(turn);
    value
}

/// As [`blocking`], without waiting for a turn: for long jobs (imports, builds), which would keep short ones waiting.
///
/// # Panics
/// If `work` does.
pub async fn long_blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only a runtime that is shutting down cancels blocking work, and then nobody polls this.
            Err(_) => std::future::pending().await,
        },
    }
}
