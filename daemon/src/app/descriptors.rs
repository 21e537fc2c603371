//! How many files and connections the system lets the daemon have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{info, warn};

/// Below this the daemon works, and says that it will soon be short of them.
const FEW: u64 = 1_024;

/// Raises the limit as far as the system lets a process do by itself, and returns it.
///
/// The low limit that most systems give to a process is there for programs that use `select(2)`, which cannot see more
/// descriptors; the daemon does not use it.
pub(super) fn raise() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let now = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(error) => {
            warn!(%error, "the limit on open files cannot be raised");
            limit.current
        }
    };
    // Without a limit the system's memory is one.
    let now = now.unwrap_or(u64::MAX);
    if now < FEW {
        warn!(
            open_files_max = now,
            "few open files are allowed, raise the limit of the process (LimitNOFILE, ulimit -Hn)"
        );
    } else {
        info!(open_files_max = now, "open files");
    }
    usize::try_from(now).unwrap_or(usize::MAX)
}
