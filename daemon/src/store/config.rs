//! How the store is set up.

use std::path::PathBuf;
use std::time::Duration;

/// The store's settings. [`Config::new`] gives the defaults; only the directory has none.
#[derive(Debug, Clone)]
pub struct Config {
    /// The store's own directory. It is created with mode 0700 where it does not exist.
    pub dir: PathBuf,
    /// The page cache's size in bytes.
    pub cache_bytes: u64,
    /// A group of changes is flushed when it has this many.
    pub flush_ops_max: usize,
    /// A group is flushed this many milliseconds after its first change, however small it is.
    pub flush_delay_ms_max: u64,
    /// How many changes may wait for the writer. A change that finds the queue full is refused, and its token comes
    /// back with [`Error::QueueFull`](super::Error::QueueFull). Size it to hold all that may be in flight at a time.
    pub queue_ops_max: usize,
    /// How long finished deliveries are kept in the log. Records of messages that JetStream has not seen acked are needed
    /// for longer than any message waits for its ack: keep it at hours, not minutes.
    pub log_retention: Duration,
    /// About how many bytes of finished deliveries are kept in the log: the oldest go first, save what may be needed to
    /// recognise what comes again.
    pub log_bytes_max: u64,
    /// The span of one log partition: retention drops whole partitions. One ends earlier when it has an eighth of
    /// `log_bytes_max`.
    pub log_partition: Duration,
    /// How long dead letters are kept.
    pub dead_letter_retention: Duration,
    /// How many bytes of dead letters, bodies included, are kept.
    pub dead_letter_bytes_max: u64,
    /// Mark each dead letter as one that is still to be published.
    pub publish_dead_letters: bool,
    /// How long `open` waits for another process to let go of the directory.
    pub lock_wait: Duration,
}

impl Config {
    /// The defaults, for a store in that directory.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            cache_bytes: 64 << 20,
            flush_ops_max: 256,
            flush_delay_ms_max: 5,
            queue_ops_max: 65_536,
            log_retention: Duration::from_secs(72 * 3600),
            log_bytes_max: 4 << 30,
            log_partition: Duration::from_secs(3600),
            dead_letter_retention: Duration::from_secs(30 * 24 * 3600),
            dead_letter_bytes_max: 1 << 30,
            publish_dead_letters: false,
            lock_wait: Duration::from_secs(3),
        }
    }
}
