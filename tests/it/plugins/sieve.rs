//! Any bytes as the file of a plugin: they are refused with an error, or they work, or they fail as a plugin may. Nothing
//! panics, and nothing takes long. `tests/fuzz` uses this file too.

use std::fs;
use std::time::Duration;

use bytes::Bytes;
use sluiced::domain::{Event, OnPluginError, PluginLimits, PluginRef, Position, StreamName, SubscriptionId};
use sluiced::plugin::{Config, Error, Fault, Host, Limits, Passed};
use tempfile::TempDir;
use tokio::time::Instant;

/// What a file of a few kilobytes may take in all, on a machine that does a lot besides: its compilation, the time to
/// describe and to configure itself, and two calls.
const TIME_MAX: Duration = Duration::from_secs(20);

/// A host whose one plugin is another one each time.
pub(crate) struct Sieve {
    dir: TempDir,
    host: Host,
    runtime: tokio::runtime::Runtime,
}

/// How a file fared.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It is no plugin, or refuses its configuration.
    Refused(Error),
    /// It was loaded, and failed on the event.
    Faulted(Fault),
    /// It was loaded, and judged the event or made something of it.
    Worked,
}

impl Default for Sieve {
    fn default() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        // A file where the cache should be: what is seen once need not be kept.
        let cache_dir = dir.path().join("cache");
        fs::write(&cache_dir, b"").expect("written");
        let limits = Limits {
            call_deadline_ms: 50,
            configure_deadline_ms: 100,
            call_wall_ms_max: 2_000,
            memory_bytes_max: 16 << 20,
            instances_max: 4,
            ..Limits::default()
        };
        let host = Host::new(Config { dir: dir.path().into(), cache_dir, limits }).expect("a host");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        Self { dir, host, runtime }
    }
}

impl Sieve {
    /// Loads that file, configures it in each of its roles, and has it work on an event.
    ///
    /// # Panics
    /// When it takes longer than anything may.
    pub(crate) fn of(&self, wasm: &[u8]) -> Outcome {
        let started = Instant::now();
        fs::write(self.dir.path().join("p.wasm"), wasm).expect("written");
        let outcome = self.judged().unwrap_or_else(Outcome::Refused);
        let took = started.elapsed();
        assert!(took < TIME_MAX, "{took:?} for {outcome:?}");
        if let Outcome::Refused(error) = &outcome {
            assert!(!error.to_string().is_empty());
        }
        outcome
    }

    fn judged(&self) -> Result<Outcome, Error> {
        let plugin = self.host.load("p")?;
        let limits = PluginLimits::default();
        let as_it_is = [PluginRef { plugin: "p".into(), config: "{}".into(), limits }];
        let id = SubscriptionId::parse("sieve").expect("a valid id");
        for (there, filters, transforms) in
            [(plugin.is_filter(), &as_it_is[..], &[][..]), (plugin.is_transform(), &[], &as_it_is)]
        {
            if !there {
                continue;
            }
            let chain = self.host.chain(&id, filters, transforms, OnPluginError::DeadLetter)?;
            if let Passed::Faulted { fault, .. } = self.runtime.block_on(chain.run(&event())).passed {
                return Ok(Outcome::Faulted(fault));
            }
        }
        Ok(Outcome::Worked)
    }
}

fn event() -> Event {
    Event {
        id: "e-1".into(),
        kind: "orders.created".into(),
        subject: "events.orders.created".into(),
        position: Position { stream: StreamName::parse("EVENTS").expect("a valid name"), sequence: 1 },
        time_ms: 1_700_000_000_000,
        headers: Vec::new(),
        content_type: Some("application/json".into()),
        data: Bytes::from_static(br#"{"amount": 120}"#),
        undecodable: None,
    }
}
