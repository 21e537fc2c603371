//! Runs fixtures natively.

use std::path::PathBuf;

use super::fixture::{Fixture, FixtureError, Outcome, Role};
use crate::{Error, Event, Filter, Headers, Plugin, Transform, component};

type Player = Box<dyn Fn(&str, Event) -> Result<Outcome, Error>>;

/// The fixtures of a folder, and the types that play them.
#[must_use = "nothing is tested before `run`"]
pub struct Fixtures {
    folder: PathBuf,
    filter: Option<Player>,
    transform: Option<Player>,
}

impl Fixtures {
    /// The fixtures of a folder, relative to the package that is being tested.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), filter: None, transform: None }
    }

    /// Plays the fixtures that say `"as": "filter"`.
    pub fn filter<P: Filter>(mut self) -> Self {
        self.filter = Some(Box::new(|config, event| {
            Ok(Outcome::Verdict(component::make::<P>(config)?.keep(&seen_by::<P>(event))?))
        }));
        self
    }

    /// Plays the fixtures that say `"as": "transform"`.
    pub fn transform<P: Transform>(mut self) -> Self {
        self.transform = Some(Box::new(|config, event| {
            Ok(Outcome::Outputs(component::make::<P>(config)?.apply(seen_by::<P>(event))?))
        }));
        self
    }

    /// Runs them all. With `BLESS` in the environment it rewrites the expectations instead; read the difference before
    /// you commit it.
    ///
    /// # Panics
    /// When a fixture fails, with every failure in the message: it is an assertion.
    pub fn run(self) {
        let bless = std::env::var_os("BLESS").is_some();
        let fixtures = Fixture::load_all(&self.folder).unwrap_or_else(|error| panic!("{}", Error::from(error)));
        let failures: Vec<String> = fixtures
            .iter()
            .filter_map(|fixture| self.run_one(fixture, bless).err())
            .map(|error| Error::from(error).to_string())
            .collect();
        assert!(
            failures.is_empty(),
            "{} of {} fixtures failed\n{}",
            failures.len(),
            fixtures.len(),
            failures.join("\n")
        );
    }

    fn run_one(&self, fixture: &Fixture, bless: bool) -> Result<(), FixtureError> {
        let player = match fixture.role {
            Role::Filter => &self.filter,
            Role::Transform => &self.transform,
        };
        let player = player.as_ref().unwrap_or_else(|| panic!("{}: no type plays {:?}", fixture.name, fixture.role));
        let outcome =
            player(&fixture.config, fixture.event.clone()).unwrap_or_else(|error| Outcome::Error(error.to_string()));
        if bless { fixture.bless(&outcome) } else { fixture.check(&outcome) }
    }
}

/// The event as the daemon would hand it over: without what the plugin does not need.
fn seen_by<P: Plugin>(mut event: Event) -> Event {
    if !P::NEEDS_PAYLOAD {
        event.data.clear();
    }
    match P::NEEDS_HEADERS {
        Headers::All => {}
        Headers::None => event.headers.clear(),
        Headers::Named(names) => {
            event.headers.retain(|header| names.iter().any(|name| name.eq_ignore_ascii_case(&header.name)));
        }
    }
    event
}

#[cfg(test)]
mod tests;
