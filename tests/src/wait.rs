//! Waiting on a state with a bound: the only place of the harness that sleeps.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// How often a state is looked at.
const POLL: Duration = Duration::from_millis(5);

/// Waits until `state` is true.
///
/// # Panics
/// When it is not within `timeout`; the message names `what` was awaited.
pub async fn wait_until(what: &str, timeout: Duration, state: impl AsyncFnMut() -> bool) {
    assert!(comes_true(timeout, state).await, "not within {timeout:?}: {what}");
}

/// Waits until `state` is true, and tells whether it was within `timeout`.
pub async fn comes_true(timeout: Duration, mut state: impl AsyncFnMut() -> bool) -> bool {
    let deadline = Instant::now() + timeout;
    loop {
        if state().await {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        sleep(POLL).await;
    }
}
