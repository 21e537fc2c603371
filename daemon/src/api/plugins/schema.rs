//! The shapes of what is said of plugins, for the API's description; `shown` makes them.

#![expect(dead_code, reason = "the description's words for what is put together key by key")]

use serde_json::Value;
use utoipa::ToSchema;

/// All plugins.
#[derive(ToSchema)]
pub(super) struct PluginList {
    /// In the order of their names.
    plugins: Vec<Plugin>,
}

/// A plugin: what the version that runs says of itself and is, and who uses it. Before there is a version only `name`,
/// `used_by` and `candidate` are there.
#[derive(ToSchema)]
pub(super) struct Plugin {
    /// Its name.
    name: String,
    /// The name that it gives itself.
    own_name: Option<String>,
    /// The version that it says it is.
    version: Option<String>,
    /// What it does, in its own words.
    summary: Option<String>,
    /// The version of the contract that it keeps.
    contract_version: Option<String>,
    /// The world of the contract that it implements.
    world: Option<String>,
    /// Whether it can be a filter.
    filter: Option<bool>,
    /// Whether it can be a transform.
    transform: Option<bool>,
    /// What it imports.
    imports: Option<Vec<String>>,
    /// The size of its WebAssembly.
    bytes: Option<u64>,
    /// The SHA-256 of its WebAssembly.
    digest: Option<String>,
    /// Whether it is given payloads.
    needs_payload: Option<bool>,
    /// Which headers it is given: `none`, `all`, or a list of their names.
    needs_headers: Option<Value>,
    /// The JSON Schema of its configuration: only of one plugin.
    config_schema: Option<Value>,
    /// Where the version that runs came from: `file` or `upload`.
    from: Option<String>,
    /// Since when it runs.
    #[schema(format = DateTime)]
    running_since: Option<String>,
    /// The versions that are kept: only of one plugin.
    #[schema(nullable = false)]
    versions: Option<Vec<PluginVersion>>,
    /// The subscriptions that use it.
    used_by: Vec<PluginUser>,
    /// A version that is on its way, or was refused.
    #[schema(nullable = false)]
    candidate: Option<PluginCandidate>,
    /// The version that runs beside the current one, without effect.
    #[schema(nullable = false)]
    shadow: Option<PluginShadow>,
}

/// A version that is kept.
#[derive(ToSchema)]
struct PluginVersion {
    /// The SHA-256 of its WebAssembly.
    digest: String,
    /// The version that it says it is.
    version: String,
    /// The size of its WebAssembly.
    bytes: u64,
    /// Where it came from: `file` or `upload`.
    from: String,
    /// When it came.
    #[schema(format = DateTime)]
    added_at: String,
    /// When it ran last.
    #[schema(format = DateTime)]
    ran_at: Option<String>,
    /// Whether it runs.
    is_current: bool,
    /// Whether it is in shadow mode.
    is_shadow: bool,
}

/// A subscription that uses a plugin.
#[derive(ToSchema)]
struct PluginUser {
    /// Its name.
    subscription: String,
    /// After how many faults in a row the plugin was set aside there.
    #[schema(nullable = false)]
    quarantined_after: Option<u32>,
}

/// A version that is on its way, or was refused.
#[derive(ToSchema)]
struct PluginCandidate {
    /// The SHA-256 of its WebAssembly.
    digest: String,
    /// Where it came from: `file` or `upload`.
    from: String,
    /// `compiling`, `checking` or `refused`.
    state: String,
    /// Since when.
    #[schema(format = DateTime)]
    since: String,
    /// Why it was refused.
    #[schema(nullable = false)]
    reason: Option<String>,
}

/// What shadow mode has found so far.
#[derive(ToSchema)]
pub(super) struct PluginShadow {
    /// The SHA-256 of the version's WebAssembly.
    digest: String,
    /// The version that it says it is.
    version: String,
    /// Since when it runs beside the current one.
    #[schema(format = DateTime)]
    since: String,
    /// How many calls were compared.
    compared: u64,
    /// How many came out the same.
    same: u64,
    /// How many did not.
    different: PluginDifferences,
    /// How many events were not tried.
    skipped: u64,
    /// How long a call takes, in microseconds; `null` before there was one.
    mean_us: PluginMeans,
    /// The subscriptions that could not use it.
    unfit: Vec<PluginUnfit>,
    /// The last differences, newest first: only when asked for.
    #[schema(nullable = false)]
    samples: Option<Vec<PluginDifference>>,
}

/// In what the two versions differed.
#[derive(ToSchema)]
struct PluginDifferences {
    /// One keeps what the other drops.
    verdict: u64,
    /// They make different outputs.
    output: u64,
    /// Only the version in shadow mode failed.
    only_shadow_failed: u64,
    /// Only the current version failed.
    only_current_failed: u64,
}

/// How long a call takes, in microseconds.
#[derive(ToSchema)]
struct PluginMeans {
    /// To the current version.
    current: Option<u64>,
    /// To the version in shadow mode.
    shadow: Option<u64>,
}

/// A subscription that cannot use a version.
#[derive(ToSchema)]
struct PluginUnfit {
    /// Its name.
    subscription: String,
    /// Why.
    reason: String,
}

/// A difference between two versions.
#[derive(ToSchema)]
struct PluginDifference {
    /// When it was found.
    #[schema(format = DateTime)]
    at: String,
    /// For which subscription.
    subscription: String,
    /// The event's stream,
    stream: String,
    /// its place there,
    sequence: u64,
    /// and its type.
    r#type: String,
    /// What the current version said of it.
    current: PluginSaid,
    /// What the version in shadow mode said of it.
    shadow: PluginSaid,
}

/// What a plugin said of an event: a verdict, outputs, or a fault.
#[derive(ToSchema)]
struct PluginSaid {
    /// `keep` or `drop`.
    #[schema(nullable = false)]
    verdict: Option<String>,
    /// Why it was dropped, or what went wrong.
    reason: Option<String>,
    /// What it made of it.
    #[schema(nullable = false)]
    outputs: Option<Vec<PluginOutput>>,
    /// The kind of fault.
    #[schema(nullable = false)]
    fault: Option<String>,
}

/// What a transform made.
#[derive(ToSchema)]
struct PluginOutput {
    /// Its data, when it is text,
    #[schema(nullable = false)]
    data: Option<String>,
    /// or its data in Base64.
    #[schema(nullable = false)]
    data_base64: Option<String>,
    /// Its media type.
    #[schema(nullable = false)]
    content_type: Option<String>,
    /// Its event type.
    #[schema(nullable = false)]
    r#type: Option<String>,
    /// Its headers, as pairs of name and value.
    #[schema(nullable = false)]
    headers: Option<Vec<[String; 2]>>,
}

/// What came of a dry run: what the plugin said, and what it took.
#[derive(ToSchema)]
pub(super) struct DryRunResult {
    /// The plugin.
    plugin: String,
    /// The version that it says it is.
    version: String,
    /// The SHA-256 of its WebAssembly.
    digest: String,
    /// `filter` or `transform`.
    role: String,
    /// The event.
    event: DryRunOf,
    /// How long the call took, in microseconds.
    took_us: u64,
    /// How much memory the instance has.
    memory_bytes: Value,
    /// The lines that it logged.
    log: Vec<DryRunLine>,
    /// `keep` or `drop`.
    #[schema(nullable = false)]
    verdict: Option<String>,
    /// Why it was dropped, or what went wrong.
    reason: Option<String>,
    /// What it made of it.
    #[schema(nullable = false)]
    outputs: Option<Vec<PluginOutput>>,
    /// The kind of fault.
    #[schema(nullable = false)]
    fault: Option<String>,
}

/// The event of a dry run.
#[derive(ToSchema)]
struct DryRunOf {
    /// Its id.
    id: String,
    /// Its type.
    r#type: String,
    /// The size of its payload.
    bytes: u64,
}

/// A line that a plugin logged.
#[derive(ToSchema)]
struct DryRunLine {
    /// How much it matters.
    level: String,
    /// Its text.
    line: String,
}
