//! Why a plugin cannot be loaded or used.

use std::io;
use std::path::PathBuf;

use super::NAME_BYTES_MAX;
use super::fault::Fault;

/// An error of a library below, whose type is not part of this module's face.
pub(super) type Below = Box<dyn std::error::Error + Send + Sync>;

/// Why a plugin cannot be loaded, or not be used like that.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A limit makes no sense.
    #[error("the plugin limit `{name}` must be {allowed}")]
    Limit {
        /// The limit's name.
        name: &'static str,
        /// What it may be.
        allowed: &'static str,
    },
    /// The WebAssembly engine does not start.
    #[error("cannot start the plugin engine")]
    Engine(#[source] Below),
    /// A thread cannot be started.
    #[error("cannot start a thread for plugins")]
    Thread(#[source] io::Error),
    /// The text is not a plugin name.
    #[error(
        "`{name}` is not a plugin name: 1 to {NAME_BYTES_MAX} lower-case letters, digits, `-` or `_`, with a letter or digit first"
    )]
    Name {
        /// The text.
        name: Box<str>,
    },
    /// There is no such file.
    #[error("there is no plugin `{plugin}`: {path} does not exist")]
    Unknown {
        /// The plugin's name.
        plugin: Box<str>,
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The file cannot be read.
    #[error("cannot read the plugin `{plugin}` from {path}")]
    Read {
        /// The plugin's name.
        plugin: Box<str>,
        /// Its file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The file is too large.
    #[error("the file of plugin `{plugin}` is larger than {bytes_max} bytes")]
    TooLarge {
        /// The plugin's name.
        plugin: Box<str>,
        /// The limit.
        bytes_max: u64,
    },
    /// The file is something else than WebAssembly.
    #[error("the file of plugin `{plugin}` is not WebAssembly: a plugin is a component, a .wasm file")]
    NotWasm {
        /// The plugin's name.
        plugin: Box<str>,
    },
    /// The file is WebAssembly without the component's types.
    #[error(
        "the plugin `{plugin}` is a core module, not a component: build it with `sluiced plugin build`, or for the target \
         wasm32-wasip2"
    )]
    CoreModule {
        /// The plugin's name.
        plugin: Box<str>,
    },
    /// The file is not a WebAssembly component, or a broken one.
    #[error("the plugin `{plugin}` is not a valid WebAssembly component")]
    Compile {
        /// The plugin's name.
        plugin: Box<str>,
        /// What the compiler says.
        #[source]
        source: Below,
    },
    /// It wants what no plugin gets.
    #[error(
        "the plugin `{plugin}` imports {imports}; a plugin may import sluiced:plugin/log and basic WASI 0.2 interfaces only"
    )]
    Imports {
        /// The plugin's name.
        plugin: Box<str>,
        /// The foreign imports, separated by commas.
        imports: Box<str>,
    },
    /// It imports an allowed interface in another shape than it has.
    #[error("the imports of the plugin `{plugin}` do not fit the host")]
    Link {
        /// The plugin's name.
        plugin: Box<str>,
        /// What does not fit.
        #[source]
        source: Below,
    },
    /// It was made for a version of the contract that this daemon does not know.
    #[error("the plugin `{plugin}` was made for {found}; this daemon knows sluiced:plugin {known}")]
    Version {
        /// The plugin's name.
        plugin: Box<str>,
        /// What it exports of the contract.
        found: Box<str>,
        /// The known versions.
        known: &'static str,
    },
    /// It does not export what a plugin must.
    #[error("the plugin `{plugin}` does not export {missing}; it exports {exports}")]
    Exports {
        /// The plugin's name.
        plugin: Box<str>,
        /// What it lacks.
        missing: &'static str,
        /// What it exports, separated by commas.
        exports: Box<str>,
    },
    /// It exports an interface of the contract in another shape.
    #[error("the exports of the plugin `{plugin}` do not fit the contract")]
    Shape {
        /// The plugin's name.
        plugin: Box<str>,
        /// What does not fit.
        #[source]
        source: Below,
    },
    /// It fails when it is asked to describe itself.
    #[error("the plugin cannot describe itself")]
    Describe(#[source] Fault),
    /// The schema in its description is not JSON.
    #[error("the configuration schema of the plugin `{plugin}` is not JSON")]
    SchemaText {
        /// The plugin's name.
        plugin: Box<str>,
        /// What the parser says.
        #[source]
        source: serde_json::Error,
    },
    /// The schema in its description is not a JSON Schema.
    #[error("the configuration schema of the plugin `{plugin}` is not a valid JSON Schema: {reason}")]
    Schema {
        /// The plugin's name.
        plugin: Box<str>,
        /// What is wrong with it.
        reason: Box<str>,
    },
    /// A configuration is not JSON.
    #[error("the configuration of the plugin `{plugin}` is not JSON")]
    ConfigText {
        /// The plugin's name.
        plugin: Box<str>,
        /// What the parser says.
        #[source]
        source: serde_json::Error,
    },
    /// A configuration does not fit the plugin's schema. Values are not shown: there may be secrets among them.
    #[error("the configuration of the plugin `{plugin}` at `{pointer}`: {reason}")]
    Config {
        /// The plugin's name.
        plugin: Box<str>,
        /// A JSON pointer to the offending value; `/` stands for the whole.
        pointer: Box<str>,
        /// What is wrong there.
        reason: Box<str>,
    },
    /// The plugin itself refuses a configuration.
    #[error("the plugin `{plugin}` refuses its configuration: {message}")]
    Refused {
        /// The plugin's name.
        plugin: Box<str>,
        /// What it says.
        message: Box<str>,
    },
    /// The plugin fails while it is configured.
    #[error("the plugin cannot be configured")]
    Configure(#[source] Fault),
    /// It is used as a filter and is none.
    #[error("the plugin `{plugin}` is a transform, not a filter")]
    NotFilter {
        /// The plugin's name.
        plugin: Box<str>,
    },
    /// It is used as a transform and is none.
    #[error("the plugin `{plugin}` is a filter, not a transform")]
    NotTransform {
        /// The plugin's name.
        plugin: Box<str>,
    },
}

impl Error {
    /// The plugin that it is about, where that is one.
    pub fn plugin(&self) -> Option<&str> {
        match self {
            Self::Unknown { plugin, .. }
            | Self::Read { plugin, .. }
            | Self::TooLarge { plugin, .. }
            | Self::NotWasm { plugin, .. }
            | Self::CoreModule { plugin, .. }
            | Self::Compile { plugin, .. }
            | Self::Imports { plugin, .. }
            | Self::Link { plugin, .. }
            | Self::Version { plugin, .. }
            | Self::Exports { plugin, .. }
            | Self::Shape { plugin, .. }
            | Self::SchemaText { plugin, .. }
            | Self::Schema { plugin, .. }
            | Self::ConfigText { plugin, .. }
            | Self::Config { plugin, .. }
            | Self::Refused { plugin, .. }
            | Self::NotFilter { plugin, .. }
            | Self::NotTransform { plugin, .. } => Some(plugin),
            Self::Limit { .. }
            | Self::Engine(_)
            | Self::Thread(_)
            | Self::Name { .. }
            | Self::Describe(_)
            | Self::Configure(_) => None,
        }
    }
}
