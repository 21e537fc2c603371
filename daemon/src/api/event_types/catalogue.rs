//! What is known of event types: from the file, which wins, and from the API.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use jsonschema::{PatternOptions, Validator};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::Mutex;
use tracing::warn;

use crate::api::problem::FieldError;
use crate::domain::Subject;
use crate::store::{self, EventTypeRecord, Store};
use crate::telemetry::clock;

/// The most event types that are described over the API.
pub const EVENT_TYPES_MAX: usize = 1_000;
/// The largest schema, and the largest example, in bytes as JSON.
pub const SCHEMA_BYTES_MAX: usize = 65_536;
/// The longest description, in characters.
const DESCRIPTION_CHARS_MAX: usize = 1_000;
/// How many places that do not fit one answer names.
const ERRORS_MAX: usize = 16;

/// What is said of an event type.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Definition {
    /// What it is for.
    pub description: Option<Box<str>>,
    /// The JSON Schema of its payload.
    pub schema: Option<Value>,
    /// A payload.
    pub example: Option<Value>,
    /// Refuse what does not fit.
    #[serde(default)]
    pub enforce: bool,
}

/// One thing that is wrong with a definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flaw {
    /// The key.
    pub key: &'static str,
    /// What is wrong with it.
    pub reason: String,
}

/// An event type whose definition is sound. Cloning is cheap.
#[derive(Clone)]
pub struct EventType(Arc<Sound>);

struct Sound {
    definition: Definition,
    validator: Option<Validator>,
}

impl fmt::Debug for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.definition.fmt(f)
    }
}

impl PartialEq for EventType {
    fn eq(&self, other: &Self) -> bool {
        self.0.definition == other.0.definition
    }
}

impl EventType {
    /// Checks a definition.
    ///
    /// # Errors
    /// With all that is wrong with it.
    pub fn new(definition: Definition) -> Result<Self, Vec<Flaw>> {
        let mut flaws = Vec::new();
        let mut flaw = |key, reason: String| flaws.push(Flaw { key, reason });
        if definition.description.as_ref().is_some_and(|text| text.chars().count() > DESCRIPTION_CHARS_MAX) {
            flaw("description", format!("must have at most {DESCRIPTION_CHARS_MAX} characters"));
        }
        for (key, value) in [("schema", &definition.schema), ("example", &definition.example)] {
            if value.as_ref().is_some_and(|value| value.to_string().len() > SCHEMA_BYTES_MAX) {
                flaw(key, format!("must have at most {SCHEMA_BYTES_MAX} bytes"));
            }
        }
        if definition.enforce && definition.schema.is_none() {
            flaw("enforce", "there is no schema that could be enforced: add one".to_owned());
        }
        // Only patterns that match in linear time, and nothing from elsewhere: an event must not wait for its check.
        let build = |schema: &Value| match schema {
            Value::Object(_) => jsonschema::options()
                .with_pattern_options(PatternOptions::regex())
                .build(schema)
                .map_err(|error| format!("is not a JSON Schema: {error}")),
            _ => Err("must be a JSON Schema: an object".to_owned()),
        };
        let validator = match definition.schema.as_ref().map(build).transpose() {
            Ok(validator) => validator,
            Err(reason) => {
                flaw("schema", reason);
                None
            }
        };
        if let (Some(validator), Some(example)) = (&validator, &definition.example) {
            for error in misfits(validator, example) {
                flaw("example", format!("does not fit the schema at {}: {}", error.field, error.detail));
            }
        }
        if flaws.is_empty() { Ok(Self(Arc::new(Sound { definition, validator }))) } else { Err(flaws) }
    }

    /// What is said of it.
    pub fn definition(&self) -> &Definition {
        &self.0.definition
    }

    /// Does that payload fit, as far as anything is asked of it?
    ///
    /// # Errors
    /// With the places that do not fit.
    fn check(&self, payload: &Value) -> Result<(), Vec<FieldError>> {
        let Some(validator) = self.0.validator.as_ref().filter(|_| self.0.definition.enforce) else { return Ok(()) };
        let errors = misfits(validator, payload);
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }
}

/// The places of a payload that do not fit, with their paths, but without what stands there.
fn misfits(validator: &Validator, payload: &Value) -> Vec<FieldError> {
    let place = |pointer: &str| match pointer {
        "" => "data".to_owned(),
        pointer => format!("data{pointer}"),
    };
    let told = validator
        .iter_errors(payload)
        .take(ERRORS_MAX)
        .map(|error| FieldError { field: place(error.instance_path().as_str()), detail: error.masked().to_string() });
    told.collect()
}

/// An event type with where it comes from.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Known {
    pub(super) kind: EventType,
    /// When it was made and changed last, in milliseconds since the Unix epoch, when it was over the API.
    pub(super) times: Option<(u64, u64)>,
}

/// Why a change was not made.
#[derive(Debug)]
pub(super) enum Refused {
    Unknown,
    OfFile,
    TooMany,
    Store(store::Error),
}

type Book = BTreeMap<Subject, Known>;

/// The event types that are described. Cloning shares them.
#[derive(Clone)]
pub struct EventTypes(Arc<Shared>);

struct Shared {
    of_file: ArcSwap<Book>,
    of_api: ArcSwap<Book>,
    store: Option<Store>,
    /// One change at a time.
    changing: Mutex<()>,
}

impl EventTypes {
    /// None, and nowhere to keep any.
    pub fn none() -> Self {
        Self::with(Book::new(), None)
    }

    fn with(of_api: Book, store: Option<Store>) -> Self {
        let (of_file, of_api) = (ArcSwap::default(), ArcSwap::from_pointee(of_api));
        Self(Arc::new(Shared { of_file, of_api, store, changing: Mutex::default() }))
    }

    /// Those that the store has. Blocks.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn open(store: Store) -> Result<Self, store::Error> {
        let mut of_api = Book::new();
        for (name, record) in store.event_types()? {
            let definition = serde_json::from_slice(&record.text).ok();
            match definition.and_then(|definition| EventType::new(definition).ok()) {
                Some(kind) => {
                    let times = Some((record.created_ms, record.updated_ms));
                    of_api.insert(name, Known { kind, times });
                }
                None => warn!(r#type = %name, "the description of an event type cannot be used, it is passed over"),
            }
        }
        Ok(Self::with(of_api, Some(store)))
    }

    /// Takes those of the file in the place of those before.
    pub fn replace_of_file(&self, types: &[(Subject, EventType)]) {
        let known = |(name, kind): &(Subject, EventType)| (name.clone(), Known { kind: kind.clone(), times: None });
        self.0.of_file.store(Arc::new(types.iter().map(known).collect()));
    }

    /// Does a payload of that type fit its schema, where that is enforced?
    ///
    /// # Errors
    /// With the places that do not fit.
    pub(in crate::api) fn check(&self, name: &Subject, payload: &Value) -> Result<(), Vec<FieldError>> {
        self.get(name.as_str()).map_or(Ok(()), |known| known.kind.check(payload))
    }

    /// What is known of a type.
    pub(super) fn get(&self, name: &str) -> Option<Known> {
        let name = Subject::parse(name).ok()?;
        self.0.of_file.load().get(&name).or(self.0.of_api.load().get(&name)).cloned()
    }

    /// All that are described.
    pub(super) fn all(&self) -> Book {
        let mut all = Book::clone(&self.0.of_api.load());
        let of_file = self.0.of_file.load();
        all.extend(of_file.iter().map(|(name, known)| (name.clone(), known.clone())));
        all
    }

    /// Describes a type, durably.
    pub(super) async fn put(&self, name: &Subject, kind: EventType) -> Result<Known, Refused> {
        let _changing = self.0.changing.lock().await;
        if self.0.of_file.load().contains_key(name) {
            return Err(Refused::OfFile);
        }
        let mut book = Book::clone(&self.0.of_api.load());
        let before = book.get(name).and_then(|known| known.times);
        if before.is_none() && book.len() >= EVENT_TYPES_MAX {
            return Err(Refused::TooMany);
        }
        let now_ms = clock::now_ms();
        let created_ms = before.map_or(now_ms, |(created_ms, _)| created_ms);
        let text = serde_json::to_vec(kind.definition()).expect("its keys are texts").into();
        let record = EventTypeRecord { created_ms, updated_ms: now_ms, text };
        let of = name.clone();
        self.write(move |store| store.put_event_type(&of, &record)).await?;
        let known = Known { kind, times: Some((created_ms, now_ms)) };
        book.insert(name.clone(), known.clone());
        self.0.of_api.store(Arc::new(book));
        Ok(known)
    }

    /// Forgets what was said of a type over the API, durably.
    pub(super) async fn remove(&self, name: &Subject) -> Result<(), Refused> {
        let _changing = self.0.changing.lock().await;
        let mut book = Book::clone(&self.0.of_api.load());
        if book.remove(name).is_none() {
            let of_file = self.0.of_file.load().contains_key(name);
            return Err(if of_file { Refused::OfFile } else { Refused::Unknown });
        }
        let of = name.clone();
        self.write(move |store| store.remove_event_type(&of)).await?;
        self.0.of_api.store(Arc::new(book));
        Ok(())
    }

    async fn write(
        &self,
        work: impl FnOnce(&Store) -> Result<(), store::Error> + Send + 'static,
    ) -> Result<(), Refused> {
        let Some(store) = self.0.store.clone() else { return Ok(()) };
        match tokio::task::spawn_blocking(move || work(&store)).await {
            Ok(written) => written.map_err(Refused::Store),
            Err(ended) => std::panic::resume_unwind(ended.into_panic()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn definition(schema: Value, example: Value) -> Definition {
        Definition { schema: Some(schema), example: Some(example), enforce: true, ..Definition::default() }
    }

    fn subject(text: &str) -> Subject {
        Subject::parse(text).expect("a type")
    }

    #[test]
    fn a_definition_is_refused_with_each_of_its_flaws() {
        let keys = |definition| match EventType::new(definition) {
            Ok(_) => Vec::new(),
            Err(flaws) => flaws.into_iter().map(|flaw| flaw.key).collect(),
        };
        let number = || json!({ "type": "object", "properties": { "n": { "type": "integer" } }, "required": ["n"] });
        assert_eq!(keys(definition(number(), json!({ "n": 1 }))), [""; 0]);
        assert_eq!(keys(definition(number(), json!({ "n": "x" }))), ["example"]);
        assert_eq!(keys(definition(json!({ "type": "no-type" }), json!(1))), ["schema"]);
        assert_eq!(keys(definition(json!(true), json!(1))), ["schema"]);
        assert_eq!(keys(definition(json!({ "$ref": "http://127.0.0.1:1/x.json" }), json!(1))), ["schema"]);
        assert_eq!(keys(definition(json!({ "$ref": "file:///etc/passwd" }), json!(1))), ["schema"]);
        let long = "x".repeat(DESCRIPTION_CHARS_MAX + 1).into();
        let bare = Definition { description: Some(long), enforce: true, ..Definition::default() };
        assert_eq!(keys(bare), ["description", "enforce"]);
        let large = json!({ "description": "x".repeat(SCHEMA_BYTES_MAX) });
        assert_eq!(keys(definition(large, json!(1))), ["schema"]);
    }

    #[test]
    fn only_what_is_enforced_is_checked_and_values_are_not_repeated() {
        let types = EventTypes::none();
        let schema = json!({ "type": "object", "properties": { "n": { "type": "integer" }, "s": { "maxLength": 1 } } });
        let strict = EventType::new(definition(schema.clone(), json!({}))).expect("sound");
        let lax = Definition { schema: Some(schema), ..Definition::default() };
        let lax = EventType::new(lax).expect("sound");
        types.replace_of_file(&[(subject("strict"), strict), (subject("lax"), lax)]);
        let wrong = json!({ "n": "hunter2", "s": "hunter2" });
        let errors = types.check(&subject("strict"), &wrong).expect_err("does not fit");
        let mut fields: Vec<&str> = errors.iter().map(|error| error.field.as_str()).collect();
        fields.sort_unstable();
        assert_eq!(fields, ["data/n", "data/s"]);
        assert!(!format!("{errors:?}").contains("hunter2"), "{errors:?}");
        for name in ["lax", "nobody"] {
            assert_eq!(types.check(&subject(name), &wrong), Ok(()), "{name}");
        }
        assert_eq!(types.check(&subject("strict"), &json!({ "n": 1 })), Ok(()));
    }
}
