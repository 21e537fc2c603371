//! What [`export!`](crate::export) is made of: the plugin of an instance, and how it is described and configured. Not for
//! authors to call.

use std::cell::RefCell;

use serde::Deserialize;

use crate::{Description, Error, Filter, HeaderNeeds, Headers, Plugin, Transform};

/// The one plugin of an instance, empty until it is configured.
pub struct Slot<P>(RefCell<Option<P>>);

impl<P: Plugin> Slot<P> {
    /// A slot that waits for its configuration.
    pub const fn empty() -> Self {
        Self(RefCell::new(None))
    }

    /// Makes the plugin of its configuration, a JSON text.
    ///
    /// # Errors
    /// What is wrong with the configuration.
    pub fn configure(&self, config: &str) -> Result<(), String> {
        log_panics();
        let plugin = make::<P>(config).map_err(|error| error.to_string())?;
        *self.0.borrow_mut() = Some(plugin);
        Ok(())
    }

    /// Calls the plugin.
    ///
    /// # Errors
    /// The plugin's error, or that it was never configured.
    pub fn call<T>(&self, call: impl FnOnce(&mut P) -> Result<T, Error>) -> Result<T, String> {
        match self.0.borrow_mut().as_mut() {
            Some(plugin) => call(plugin).map_err(|error| error.to_string()),
            None => Err("called before it was configured".to_owned()),
        }
    }
}

/// A plugin with a slot of its own in the component.
pub trait Hosted: Plugin {
    /// Runs something with the slot.
    fn slot<R>(use_slot: impl FnOnce(&Slot<Self>) -> R) -> R;
}

/// Makes a plugin of its configuration, a JSON text.
///
/// # Errors
/// The text is not JSON, does not fit the configuration's type, or is refused by the plugin.
pub fn make<P: Plugin>(config: &str) -> Result<P, Error> {
    // By way of a value, so that the message does not point at a line and column that nobody wrote: the author of the
    // configuration wrote TOML, or a larger JSON document.
    let value: serde_json::Value = serde_json::from_str(config)?;
    P::new(P::Config::deserialize(value)?)
}

/// Describes a plugin.
pub fn describe<P: Plugin>(name: &str, version: &str) -> Description {
    Description {
        name: name.to_owned(),
        version: version.to_owned(),
        summary: P::SUMMARY.to_owned(),
        config_schema: schemars::schema_for!(P::Config).as_value().to_string(),
        needs_payload: P::NEEDS_PAYLOAD,
        needs_headers: match P::NEEDS_HEADERS {
            Headers::None => HeaderNeeds::None,
            Headers::All => HeaderNeeds::All,
            Headers::Named(names) => HeaderNeeds::Named(names.iter().map(|&name| name.to_owned()).collect()),
        },
    }
}

/// Describes a filter and a transform that share a component and a configuration.
pub fn describe_both<F: Filter, T: Transform<Config = F::Config>>(name: &str, version: &str) -> Description {
    let (filter, transform) = (describe::<F>(name, version), describe::<T>(name, version));
    Description {
        summary: if F::SUMMARY == T::SUMMARY {
            filter.summary
        } else {
            format!("{} / {}", filter.summary, transform.summary)
        },
        needs_payload: filter.needs_payload || transform.needs_payload,
        needs_headers: match (filter.needs_headers, transform.needs_headers) {
            (HeaderNeeds::All, _) | (_, HeaderNeeds::All) => HeaderNeeds::All,
            (HeaderNeeds::None, needs) | (needs, HeaderNeeds::None) => needs,
            (HeaderNeeds::Named(mut names), HeaderNeeds::Named(more)) => {
                names.extend(more);
                HeaderNeeds::Named(names)
            }
        },
        ..transform
    }
}

/// Lets a panic's message reach the daemon's log before the instance traps.
fn log_panics() {
    #[cfg(target_family = "wasm")]
    std::panic::set_hook(Box::new(|panic| crate::log::write(crate::log::Level::Error, format_args!("{panic}"))));
}

/// Fails to compile for anything but a filter.
pub const fn must_filter<P: Filter>() {}

/// Fails to compile for anything but a transform.
pub const fn must_transform<P: Transform>() {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Event, Output, Verdict};

    #[derive(serde::Deserialize, schemars::JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Config {
        /// The least length, in bytes.
        bytes_min: usize,
    }

    struct Long(usize);

    impl Plugin for Long {
        type Config = Config;
        const SUMMARY: &'static str = "Keeps long events.";
        const NEEDS_HEADERS: Headers = Headers::Named(&["a"]);
        fn new(config: Config) -> Result<Self, Error> {
            Ok(Self(config.bytes_min))
        }
    }

    impl Filter for Long {
        fn keep(&mut self, event: &Event) -> Result<Verdict, Error> {
            Ok(if event.data.len() >= self.0 { Verdict::Keep } else { Verdict::Drop(None) })
        }
    }

    struct Pass;

    impl Plugin for Pass {
        type Config = Config;
        const SUMMARY: &'static str = "Passes.";
        const NEEDS_PAYLOAD: bool = false;
        const NEEDS_HEADERS: Headers = Headers::Named(&["b"]);
        fn new(_: Config) -> Result<Self, Error> {
            Ok(Self)
        }
    }

    impl Transform for Pass {
        fn apply(&mut self, event: Event) -> Result<Vec<Output>, Error> {
            Ok(vec![Output::bytes(event.data)])
        }
    }

    #[test]
    fn a_slot_refuses_events_until_it_is_configured() {
        let slot = Slot::<Long>::empty();
        let event = crate::test::event("a").text("long enough").build();
        assert_eq!(slot.call(|long| long.keep(&event)), Err("called before it was configured".to_owned()));
        assert_eq!(
            slot.configure(r#"{"bytes_mim": 3}"#),
            Err("unknown field `bytes_mim`, expected `bytes_min`".to_owned())
        );
        slot.configure(r#"{"bytes_min": 3}"#).unwrap();
        assert_eq!(slot.call(|long| long.keep(&event)), Ok(Verdict::Keep));
    }

    #[test]
    fn a_description_joins_both_needs() {
        let description = describe_both::<Long, Pass>("n", "1.0.0");
        assert!(description.needs_payload);
        assert_eq!(description.needs_headers, HeaderNeeds::Named(vec!["a".into(), "b".into()]));
        assert_eq!(description.summary, "Keeps long events. / Passes.");
        let schema: serde_json::Value = serde_json::from_str(&description.config_schema).unwrap();
        assert_eq!(schema["properties"]["bytes_min"]["description"], "The least length, in bytes.");
        assert_eq!(schema["additionalProperties"], false);
    }
}
