//! The shape of a webhook, for the API's description. What a definition must be is for the configuration to say, which has
//! the same keys.

#![expect(dead_code, reason = "the description's words for what the configuration reads")]

use std::collections::BTreeMap;

use serde::Deserialize;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{Object, Schema, SchemaType, Type};
use utoipa::{PartialSchema, ToSchema};

/// A duration: numbers with their units, such as `30s`, `5m` or `1h 30m`.
#[derive(Deserialize, ToSchema)]
#[schema(pattern = "^[0-9]+(ms|s|m|h|d)( ?[0-9]+(ms|s|m|h|d))*$", example = "30s")]
struct Duration(String);

/// A pattern of event types: tokens with dots between them, `*` for any one, `>` at the end for one or more.
#[derive(Deserialize, ToSchema)]
#[schema(min_length = 1, max_length = 512, example = "orders.*.created")]
struct TypePattern(String);

/// A status, a range or a class: `404`, `500-503`, `5xx`.
#[derive(Deserialize, ToSchema)]
#[schema(pattern = "^([1-9][0-9]{2}(-[1-9][0-9]{2})?|[1-9][xX]{2})$", example = "5xx")]
struct StatusEntry(String);

/// A place in the streams: `now`, `all`, a time (RFC 3339), a stream sequence, or one of these for each stream by its name.
#[derive(Deserialize, ToSchema)]
#[serde(untagged)]
enum DeliverFrom {
    /// `now`, `all`, or a time.
    Word(String),
    /// A stream sequence, where there is one stream.
    Sequence(u64),
    /// For each stream, by its name.
    Streams(BTreeMap<String, StreamBegin>),
}

/// A place in one stream.
#[derive(Deserialize, ToSchema)]
#[serde(untagged)]
enum StreamBegin {
    /// `now`, `all`, or a time.
    Word(String),
    /// A stream sequence.
    Sequence(u64),
}

/// One use of a plugin.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct PluginUse {
    /// The plugin's name.
    #[schema(pattern = "^[a-z0-9][a-z0-9_-]{0,63}$", example = "jq")]
    plugin: String,
    /// Its configuration, which its own schema checks.
    config: Option<serde_json::Map<String, serde_json::Value>>,
    /// How long one call may take, in milliseconds.
    #[schema(minimum = 1, maximum = 60000)]
    call_deadline_ms: Option<u32>,
    /// How much memory an instance may have, in MiB.
    #[schema(minimum = 1, maximum = 1024)]
    memory_mib_max: Option<u32>,
    /// How much a call may give back, in KiB.
    #[schema(minimum = 1, maximum = 65536)]
    output_kib_max: Option<u32>,
    /// How many instances stay ready.
    #[schema(minimum = 1, maximum = 64)]
    warm_instances_max: Option<u32>,
    /// After how many calls an instance is made anew.
    #[schema(minimum = 1, maximum = 1000000000)]
    calls_per_instance_max: Option<u32>,
}

/// When to try again: waits that grow, or a schedule of them.
#[derive(Deserialize, ToSchema)]
#[schema(as = WebhookRetry)]
#[serde(deny_unknown_fields)]
struct Retry {
    /// How many attempts are made in all. Not beside `schedule`.
    #[schema(minimum = 1, maximum = 100)]
    max_attempts: Option<u32>,
    /// The first wait. Not beside `schedule`.
    base: Option<Duration>,
    /// How many times longer each further wait is. Not beside `schedule`.
    #[schema(minimum = 1)]
    factor: Option<f64>,
    /// The longest wait. Not beside `schedule`.
    max: Option<Duration>,
    /// By which part of it a wait may be shorter or longer, at random.
    #[schema(minimum = 0, maximum = 1)]
    jitter: Option<f64>,
    /// The waits themselves.
    schedule: Option<Vec<Duration>>,
}

/// How many attempts a time are made at most.
#[derive(Deserialize, ToSchema)]
#[schema(as = WebhookRateLimit)]
#[serde(deny_unknown_fields)]
struct RateLimit {
    /// So many; 0 is no limit.
    #[schema(minimum = 0, maximum = 1000000)]
    rate: Option<u32>,
    /// In each such time.
    per: Option<Duration>,
    /// So many at once after a quiet time.
    #[schema(minimum = 1, maximum = 1000000)]
    burst: Option<u32>,
}

/// What events have in common that keep their order: a token of the type, or a header.
#[derive(Deserialize, ToSchema)]
#[schema(as = WebhookOrderKey)]
#[serde(deny_unknown_fields)]
struct OrderKey {
    /// The number of a token, from 1.
    #[schema(minimum = 1, maximum = 64)]
    token: Option<u32>,
    /// The name of a header.
    header: Option<String>,
}

/// A further signature of the body, for receivers that expect the older style: `sha256=` and the HMAC in hexadecimal.
#[derive(Deserialize, ToSchema)]
#[schema(as = WebhookBodySignature)]
#[serde(deny_unknown_fields)]
struct BodySignature {
    /// The header that it is sent in.
    #[schema(example = "X-Hub-Signature-256")]
    header: String,
    /// What the secret is as a key: its bytes, or its text.
    keyed_by: Option<KeyedBy>,
}

/// What the secret is as a key.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum KeyedBy {
    /// Its bytes.
    Bytes,
    /// Its text.
    Text,
}

/// TLS to the endpoint, with files of the daemon's machine.
#[derive(Deserialize, ToSchema)]
#[schema(as = WebhookTls)]
#[serde(deny_unknown_fields)]
struct Tls {
    /// Certificate authorities to trust in the place of the system's.
    ca_file: Option<String>,
    /// The certificate to show.
    client_cert_file: Option<String>,
    /// Its key.
    client_key_file: Option<String>,
    /// The oldest version.
    min_version: Option<TlsMin>,
}

/// A version of TLS.
#[derive(Deserialize, ToSchema)]
enum TlsMin {
    /// 1.2.
    #[serde(rename = "1.2")]
    Tls12,
    /// 1.3.
    #[serde(rename = "1.3")]
    Tls13,
}

/// When an endpoint that fails is left alone.
#[derive(Deserialize, ToSchema)]
#[schema(as = WebhookBreaker)]
#[serde(deny_unknown_fields)]
struct Breaker {
    /// The part of attempts that has to fail; above 0.
    #[schema(exclusive_minimum = 0, maximum = 1)]
    failure_ratio: Option<f64>,
    /// Of so many attempts at least.
    #[schema(minimum = 1, maximum = 1000)]
    attempts_min: Option<u32>,
    /// Within this time.
    window: Option<Duration>,
    /// How long it is left alone before a probe.
    probe: Option<Duration>,
    /// The longest such time.
    probe_max: Option<Duration>,
}

/// What becomes of an event whose plugin failed.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
enum OnPluginError {
    /// It becomes a dead letter.
    DeadLetter,
    /// It is dropped.
    Drop,
    /// It goes on as it is.
    Pass,
}

/// Which events wait for each other.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Ordering {
    /// None.
    None,
    /// Those with the same key.
    Key,
    /// All.
    Strict,
}

/// What an ordered delivery that fails for good does to those behind it.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
enum HeadOfLine {
    /// It becomes a dead letter, and they go on.
    DeadLetter,
    /// They wait.
    Wait,
}

/// What a request's body is.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
enum Format {
    /// The event's data.
    Raw,
    /// A JSON object of id, type, time and data.
    Envelope,
    /// A CloudEvent in binary mode.
    #[serde(rename = "cloudevents-binary")]
    CloudeventsBinary,
    /// A CloudEvent in structured mode.
    #[serde(rename = "cloudevents-structured")]
    CloudeventsStructured,
}

/// The keys of a webhook, of which each that is missing has the value of the daemon's configuration.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Keys {
    /// What it is called.
    #[schema(min_length = 1, max_length = 100, example = "Orders for the CRM")]
    name: Option<String>,
    /// Whose it is; only an operator may say so.
    #[schema(min_length = 1, max_length = 128)]
    owner: Option<String>,
    /// Whether anything is delivered: `false` disables it, `true` lets it go on where it stopped. Without it, it stays as it is.
    active: Option<bool>,
    /// Where to deliver: `http` or `https`, without user and fragment.
    #[schema(pattern = "^https?://[^ ]+$", max_length = 2048, example = "https://crm.example/hook")]
    url: Option<String>,
    /// Which event types it gets.
    #[schema(min_items = 1)]
    types: Option<Vec<TypePattern>>,
    /// The signing secret: `whsec_` and the Base64 of 24 to 64 bytes. Without one the daemon makes one.
    #[schema(pattern = "^whsec_[A-Za-z0-9+/]{32,86}={0,2}$")]
    secret: Option<String>,
    /// How long an earlier secret stays valid after a rotation.
    secret_overlap: Option<Duration>,
    /// Filters, in their order.
    #[schema(max_items = 16)]
    filters: Option<Vec<PluginUse>>,
    /// Transforms, in their order.
    #[schema(max_items = 16)]
    transforms: Option<Vec<PluginUse>>,
    /// What becomes of an event whose plugin failed.
    on_plugin_error: Option<OnPluginError>,
    /// Where it begins when it is new.
    deliver_from: Option<DeliverFrom>,
    /// Headers of its requests. Answers show `***` in the place of each value; sent back, that keeps the value.
    headers: Option<BTreeMap<String, String>>,
    /// How many attempts are under way at most.
    #[schema(minimum = 1, maximum = 1024)]
    max_in_flight: Option<u32>,
    /// How many attempts a time are made at most.
    rate_limit: Option<RateLimit>,
    /// Which events wait for each other.
    ordering: Option<Ordering>,
    /// What events have in common that wait for each other: with `ordering` `key`.
    order_key: Option<OrderKey>,
    /// What a failed delivery does to those behind it: with an order.
    head_of_line: Option<HeadOfLine>,
    /// When to try again.
    retry: Option<Retry>,
    /// How long connecting may take.
    connect_timeout: Option<Duration>,
    /// How long an attempt may take.
    timeout: Option<Duration>,
    /// What a request's body is.
    format: Option<Format>,
    /// The `source` of CloudEvents: with their formats.
    #[schema(max_length = 1024)]
    cloudevents_source: Option<String>,
    /// A further signature, of the body alone.
    body_signature: Option<BodySignature>,
    /// A private key to sign with too, as `sluiced secret --ed25519` prints it. Answers show `***`.
    ed25519_key: Option<String>,
    /// Statuses that are tried again.
    retry_statuses: Option<Vec<StatusEntry>>,
    /// Statuses that are final.
    fail_statuses: Option<Vec<StatusEntry>>,
    /// How many bytes of an answer's body are kept.
    #[schema(minimum = 0, maximum = 65536)]
    capture_bytes_max: Option<u32>,
    /// TLS to the endpoint.
    tls: Option<Tls>,
    /// When an endpoint that fails is left alone.
    breaker: Option<Breaker>,
    /// After how long of nothing but failures it is disabled: a duration, or `never`.
    disable_after: Option<String>,
}

/// What an answer has besides.
#[derive(Deserialize, ToSchema)]
struct Besides {
    /// Its id for life; that of a webhook of the file is its name.
    id: String,
    /// Who has the say over it: `api`, or `file`, which only the configuration file changes.
    managed_by: ManagedBy,
    /// Why it does not run, when the configuration no longer takes it.
    broken: Option<String>,
    /// When it was made; not of the file's.
    #[schema(format = DateTime)]
    created_at: Option<String>,
    /// When it was changed last; not of the file's.
    #[schema(format = DateTime)]
    updated_at: Option<String>,
}

/// Who has the say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum ManagedBy {
    /// The API.
    Api,
    /// The configuration file.
    File,
}

/// Webhooks.
#[derive(ToSchema)]
#[schema(as = WebhookList)]
pub(super) struct List {
    /// Those of the file first, by name, then the others by id.
    webhooks: Vec<Shown>,
    /// The `cursor` of the next page; `null` when there is none. A page may be short, even empty, and still have a next one:
    /// the search behind it is bounded.
    #[schema(required = true)]
    next: Option<String>,
}

fn object<T: PartialSchema>() -> Object {
    match T::schema() {
        RefOr::T(Schema::Object(object)) => object,
        _ => Object::default(),
    }
}

/// The keys, of which these must be there.
fn requiring(names: &[&str]) -> Object {
    let mut object = object::<Keys>();
    for name in names {
        match object.properties.get_mut(*name) {
            Some(RefOr::T(Schema::Object(key))) => key.schema_type = SchemaType::Type(Type::String),
            Some(RefOr::T(Schema::Array(key))) => key.schema_type = SchemaType::Type(Type::Array),
            _ => {}
        }
    }
    object.required = names.iter().map(|name| (*name).to_owned()).collect();
    object
}

/// Makes a type of the description: its name, what it says of itself, and its schema.
macro_rules! described {
    ($name:ident as $shown:literal, $about:literal, $object:expr) => {
        #[doc = $about]
        pub(super) struct $name;

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                let mut object: Object = $object;
                object.description = Some($about.to_owned());
                object.into()
            }
        }

        impl ToSchema for $name {
            fn name() -> std::borrow::Cow<'static, str> {
                $shown.into()
            }

            fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
                Keys::schemas(schemas);
                Besides::schemas(schemas);
            }
        }
    };
}

described!(New as "NewWebhook", "A webhook to make.", requiring(&["name", "url", "types"]));
described!(Whole as "WebhookReplacement", "All that a webhook is to be.", requiring(&["url", "types"]));
described!(Change as "WebhookChange", "What is to change of a webhook; `null` takes a key out.", requiring(&[]));
described!(Shown as "Webhook", "A webhook. Keys that have the configuration's value are left out.", {
    let (mut keys, besides) = (requiring(&[]), object::<Besides>());
    keys.properties.extend(besides.properties);
    keys.required = ["id", "name", "url", "types", "managed_by"].map(str::to_owned).into();
    keys
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_must_be_there_is_never_null() {
        let new = requiring(&["name", "url", "types"]);
        let text = serde_json::to_value(&new).expect("JSON");
        assert_eq!(text["properties"]["name"]["type"], "string");
        assert_eq!(text["properties"]["types"]["type"], "array");
        assert_eq!(text["additionalProperties"], false);
    }
}
