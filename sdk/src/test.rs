//! The author's test kit: events for unit tests, and event fixtures. It exists natively only and adds nothing to a
//! component.
//!
//! ```no_run
//! # use sluiced_sdk::{Error, Event, Filter, Plugin, Verdict};
//! # struct Mine;
//! # impl Plugin for Mine {
//! #     type Config = serde_json::Value;
//! #     const SUMMARY: &'static str = "";
//! #     fn new(_: serde_json::Value) -> Result<Self, Error> { Ok(Self) }
//! # }
//! # impl Filter for Mine {
//! #     fn keep(&mut self, _: &Event) -> Result<Verdict, Error> { Ok(Verdict::Keep) }
//! # }
//! // #[test]
//! fn fixtures() {
//!     sluiced_sdk::test::Fixtures::new("fixtures").filter::<Mine>().run();
//! }
//! ```

mod build;
mod fixture;
mod run;

pub use build::{EventBuilder, event};
pub use fixture::{Fixture, FixtureError, Outcome, Role};
pub use run::Fixtures;
