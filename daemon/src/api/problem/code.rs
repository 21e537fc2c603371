//! The codes of problems: one table, from which the API, its document and its pages come.

use http::StatusCode;

/// Makes the table: a variant for each code, with what it stands for as its documentation.
macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $status:ident, $code:literal, $title:literal;)+) => {
        /// What went wrong, as the stable word that programs go by. Each has a page in `docs/errors/`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Code {
            $($(#[$doc])* $variant,)+
        }

        impl Code {
            /// All codes.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The stable word.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code,)+ }
            }

            /// The status that it is answered with.
            pub const fn status(self) -> StatusCode {
                match self { $(Self::$variant => StatusCode::$status,)+ }
            }

            /// The same as the word, for people.
            pub const fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)+ }
            }
        }
    };
}

codes! {
    /// A parameter, a header or a part of the body cannot be used; `errors` says which, and why.
    InvalidRequest = BAD_REQUEST, "invalid_request", "The request cannot be used";
    /// No key, or one that is not valid.
    Unauthorized = UNAUTHORIZED, "unauthorized", "A valid key is needed";
    /// The token is not valid.
    InvalidToken = UNAUTHORIZED, "invalid_token", "The token is not valid";
    /// The token has expired.
    TokenExpired = UNAUTHORIZED, "token_expired", "The token has expired";
    /// The ticket is not valid, or no more.
    InvalidTicket = UNAUTHORIZED, "invalid_ticket", "The ticket is not valid";
    /// The API key lacks a scope.
    InsufficientScope = FORBIDDEN, "insufficient_scope", "The key or token is not for this";
    /// Only the operator may do that.
    OperatorOnly = FORBIDDEN, "operator_only", "Only the operator may do that";
    /// A request over the console's session that another site's page may have made.
    CrossSite = FORBIDDEN, "cross_site", "The request may come from another site";
    /// An event type lies outside of the asker's allow-list.
    TypesNotAllowed = FORBIDDEN, "types_not_allowed", "The event types are not allowed";
    /// There is no such thing, or none that the asker may see.
    NotFound = NOT_FOUND, "not_found", "There is no such thing";
    /// A plugin has no such version.
    NoVersion = NOT_FOUND, "no_version", "There is no such version";
    /// The path is known, and not with this method.
    MethodNotAllowed = METHOD_NOT_ALLOWED, "method_not_allowed", "The path knows no such method";
    /// The answer comes in no type that the request accepts.
    NotAcceptable = NOT_ACCEPTABLE, "not_acceptable", "There is no answer of an accepted type";
    /// What is to change is not as the asker saw it.
    PreconditionFailed = PRECONDITION_FAILED, "precondition_failed", "It has changed in the meantime";
    /// A body that is larger than the daemon takes.
    BodyTooLarge = PAYLOAD_TOO_LARGE, "body_too_large", "The body is too large";
    /// An event that is larger than its stream takes.
    EventTooLarge = PAYLOAD_TOO_LARGE, "event_too_large", "The event is too large";
    /// A body of a type that the operation does not take.
    UnsupportedMediaType = UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", "The body has the wrong type";
    /// The key of the request was sent before with another body.
    IdempotencyKeyReused = UNPROCESSABLE_ENTITY, "idempotency_key_reused", "The key belongs to another request";
    /// No configured stream takes events of the type.
    NoStream = UNPROCESSABLE_ENTITY, "no_stream", "No stream takes this event";
    /// The payload does not fit the schema of its event type; `errors` says where.
    SchemaMismatch = UNPROCESSABLE_ENTITY, "schema_mismatch", "The payload does not fit its event type";
    /// A replay's range has nothing in it.
    Range = UNPROCESSABLE_ENTITY, "range", "There is nothing to replay";
    /// The webhook stands in the configuration file.
    ManagedByFile = CONFLICT, "managed_by_file", "The configuration file has the say";
    /// A request with the same key is being done.
    IdempotencyKeyInUse = CONFLICT, "idempotency_key_in_use", "The request is being done";
    /// No folder for backups is configured.
    NoBackupDir = CONFLICT, "no_backup_dir", "Backups are not set up";
    /// A backup is under way.
    BackupBusy = CONFLICT, "backup_busy", "One backup at a time";
    /// There is a backup of that name.
    BackupExists = CONFLICT, "backup_exists", "Backups are never overwritten";
    /// The event type is described in the configuration file.
    EventTypeOfFile = CONFLICT, "event_type_of_file", "The event type is described in the configuration";
    /// Too many event types are described.
    EventTypesMax = CONFLICT, "event_types_max", "Too many event types";
    /// The delivery waits for an attempt, or is in one.
    DeliveryUnderWay = CONFLICT, "delivery_under_way", "The delivery is under way already";
    /// The secret stands in the configuration file.
    SecretFromFile = CONFLICT, "secret_from_file", "The secret cannot be rotated";
    /// Too many earlier secrets are still valid.
    TooManySecrets = CONFLICT, "too_many_secrets", "The secret cannot be rotated";
    /// The new secret is the old one.
    SameSecret = CONFLICT, "same_secret", "The secret cannot be rotated";
    /// Only a disabled subscription can go on from now.
    NotDisabled = CONFLICT, "not_disabled", "The subscription is not disabled";
    /// The owner has as many webhooks as one may have.
    WebhooksPerOwnerMax = CONFLICT, "webhooks_per_owner_max", "The owner has as many webhooks as one may have";
    /// There are as many API keys as may be.
    ApiKeysMax = CONFLICT, "api_keys_max", "There are too many API keys";
    /// The subscription has a job already.
    JobRunning = CONFLICT, "job_running", "There is a job already";
    /// The job has ended.
    JobOver = CONFLICT, "job_over", "The job is over";
    /// Subscriptions cannot use the new version of a plugin.
    PluginUnfit = CONFLICT, "plugin_unfit", "The version that runs stays: subscriptions cannot use the new one";
    /// Subscriptions use the plugin.
    PluginInUse = CONFLICT, "plugin_in_use", "The plugin is in use";
    /// The plugin lies in the plugin directory.
    PluginOfFile = CONFLICT, "plugin_of_file", "The plugin lies in the plugin directory";
    /// Another version of the plugin is on its way.
    PluginBusy = CONFLICT, "plugin_busy", "One change of a plugin at a time";
    /// Too many requests within a minute.
    RateLimited = TOO_MANY_REQUESTS, "rate_limited", "Too many requests";
    /// Too many jobs at once.
    JobsMax = TOO_MANY_REQUESTS, "jobs_max", "Too many jobs";
    /// The principal has too many event streams open.
    ClientsPerPrincipalMax = TOO_MANY_REQUESTS, "clients_per_principal_max", "Too many event streams";
    /// A fault of the daemon's own.
    Internal = INTERNAL_SERVER_ERROR, "internal", "The daemon failed";
    /// The daemon is not ready yet.
    Starting = SERVICE_UNAVAILABLE, "starting", "Not possible at the moment";
    /// The daemon is ending.
    Stopping = SERVICE_UNAVAILABLE, "stopping", "Not possible at the moment";
    /// The daemon has too many event streams open.
    ClientsMax = SERVICE_UNAVAILABLE, "clients_max", "Not possible at the moment";
    /// NATS cannot be reached or used.
    NatsUnavailable = SERVICE_UNAVAILABLE, "nats_unavailable", "Not possible at the moment";
    /// The stream cannot be read.
    StreamUnavailable = SERVICE_UNAVAILABLE, "stream_unavailable", "Not possible at the moment";
    /// The store cannot be read or written.
    StoreUnavailable = SERVICE_UNAVAILABLE, "store_unavailable", "Not possible at the moment";
    /// The backup could not be made.
    BackupFailed = SERVICE_UNAVAILABLE, "backup_failed", "Not possible at the moment";
    /// The keys that tokens are verified with cannot be had.
    JwksUnavailable = SERVICE_UNAVAILABLE, "jwks_unavailable", "Not possible at the moment";
    /// A change could not be made.
    Unavailable = SERVICE_UNAVAILABLE, "unavailable", "Not possible at the moment";
}

impl Code {
    /// Whether it is answered with the time after which to try again.
    pub fn waits(self) -> bool {
        matches!(self.status(), StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS)
    }

    /// The code of that word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.as_str() == word)
    }
}
