//! What each route asks of a principal: one table. A route that is not in it is the operator's alone.

use http::Method;

use crate::domain::Scope;

/// What a route asks for, and what it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Route {
    method: &'static str,
    path: &'static str,
    /// The scope that one must have.
    pub(super) scope: Scope,
    /// What the audit log calls it, when it changes something.
    pub(super) action: Option<&'static str>,
}

/// The action of the route that sends a request to somebody else at once, with a limit of its own.
pub(super) const TEST: &str = "webhook.test";

/// Where sessions begin and end.
const SESSION: &str = "/session";

/// The routes that a ticket opens, for those who can send no header.
const BY_TICKET: [&str; 2] = ["/events/stream", "/streams/{name}"];

impl Route {
    /// Does a session begin there?
    pub(super) fn opens_session(self) -> bool {
        self.path == SESSION && self.method == "POST"
    }

    /// Does a ticket open it?
    pub(super) fn takes_tickets(&self) -> bool {
        self.method == "GET" && BY_TICKET.contains(&self.path)
    }
}

const fn looks(path: &'static str) -> Route {
    Route { method: "GET", path, scope: Scope::Read, action: None }
}

const fn changes(method: &'static str, path: &'static str, action: &'static str) -> Route {
    Route { method, path, scope: Scope::Write, action: Some(action) }
}

const fn operator(method: &'static str, path: &'static str, action: &'static str) -> Route {
    Route { method, path, scope: Scope::Admin, action: Some(action) }
}

/// Every route below `/api/v1`.
pub(super) const ROUTES: &[Route] = &[
    Route { method: "POST", path: "/events", scope: Scope::Publish, action: None },
    Route { method: "POST", path: "/events/batch", scope: Scope::Publish, action: None },
    looks("/events"),
    looks("/events/stats"),
    looks("/events/{id}"),
    looks("/events/{id}/trace"),
    looks("/events/stream"),
    looks("/events/clients"),
    Route { method: "POST", path: "/events/tickets", scope: Scope::Read, action: None },
    Route { method: "POST", path: "/events/clients/{id}/token", scope: Scope::Read, action: None },
    looks("/streams"),
    looks("/streams/{name}"),
    looks("/event-types"),
    looks("/event-types/{type}"),
    operator("POST", "/event-types", "event_type.create"),
    operator("PUT", "/event-types/{type}", "event_type.replace"),
    operator("PATCH", "/event-types/{type}", "event_type.update"),
    operator("DELETE", "/event-types/{type}", "event_type.delete"),
    looks("/webhooks"),
    looks("/webhooks/{id}"),
    looks("/webhooks/{id}/deliveries"),
    looks("/webhooks/{id}/secret"),
    changes("POST", "/webhooks", "webhook.create"),
    changes("PUT", "/webhooks/{id}", "webhook.replace"),
    changes("PATCH", "/webhooks/{id}", "webhook.update"),
    changes("DELETE", "/webhooks/{id}", "webhook.delete"),
    changes("POST", "/webhooks/{id}/rotate-secret", "webhook.rotate_secret"),
    changes("POST", "/webhooks/{id}/enable", "webhook.enable"),
    changes("POST", "/webhooks/{id}/disable", "webhook.disable"),
    changes("POST", "/webhooks/{id}/test", TEST),
    changes("POST", "/webhooks/{id}/replay", "webhook.replay"),
    changes("POST", "/webhooks/{id}/redrive", "webhook.redrive"),
    looks("/subscriptions"),
    looks("/subscriptions/{name}"),
    looks("/subscriptions/{name}/deliveries"),
    looks("/subscriptions/{name}/secret"),
    looks("/subscriptions/{name}/dead-letters"),
    looks("/subscriptions/{name}/dead-letters/{id}"),
    changes("POST", "/subscriptions/{name}/enable", "subscription.enable"),
    changes("POST", "/subscriptions/{name}/disable", "subscription.disable"),
    changes("POST", "/subscriptions/{name}/secret/rotate", "subscription.rotate_secret"),
    changes("POST", "/subscriptions/{name}/replay", "subscription.replay"),
    changes("POST", "/subscriptions/{name}/redrive", "subscription.redrive"),
    changes("DELETE", "/subscriptions/{name}/dead-letters/{id}", "dead_letter.delete"),
    changes("POST", "/subscriptions/{name}/dead-letters/{id}/resend", "dead_letter.resend"),
    looks("/dead-letters"),
    looks("/deliveries"),
    looks("/deliveries/stats"),
    looks("/deliveries/{id}"),
    changes("POST", "/deliveries/{id}/retry", "delivery.retry"),
    changes("POST", "/deliveries/{id}/redrive", "delivery.redrive"),
    changes("POST", "/deliveries/redrive", "delivery.redrive"),
    looks("/jobs"),
    looks("/jobs/{id}"),
    changes("POST", "/jobs/{id}/pause", "job.pause"),
    changes("POST", "/jobs/{id}/resume", "job.resume"),
    changes("POST", "/jobs/{id}/cancel", "job.cancel"),
    looks("/plugins"),
    looks("/plugins/{name}"),
    looks("/plugins/{name}/shadow"),
    operator("PUT", "/plugins/{name}", "plugin.put"),
    operator("DELETE", "/plugins/{name}", "plugin.delete"),
    operator("POST", "/plugins/{name}/rollback", "plugin.rollback"),
    operator("PUT", "/plugins/{name}/shadow", "plugin.shadow"),
    operator("DELETE", "/plugins/{name}/shadow", "plugin.end_shadow"),
    operator("POST", "/plugins/{name}/shadow/promote", "plugin.promote"),
    Route { method: "POST", path: "/plugins/{name}/dry-run", scope: Scope::Admin, action: None },
    operator("POST", "/backup", "backup.create"),
    operator("POST", "/keys", "key.create"),
    operator("DELETE", "/keys/{id}", "key.delete"),
    Route { method: "GET", path: "/keys", scope: Scope::Admin, action: None },
    Route { method: "GET", path: "/keys/{id}", scope: Scope::Admin, action: None },
    Route { method: "GET", path: "/audit", scope: Scope::Admin, action: None },
    looks("/info"),
    looks("/overview"),
    looks("/session"),
    Route { method: "POST", path: SESSION, scope: Scope::Read, action: Some("session.create") },
    Route { method: "DELETE", path: SESSION, scope: Scope::Read, action: Some("session.end") },
    operator("POST", "/portal-links", "portal_link.create"),
];

/// The route of a method and a path as the router has it, below the base; `None` when there is none of that method.
/// A path that is not in the table asks for what only the operator has.
pub(super) fn route(method: &Method, path: &str) -> Option<Route> {
    let method = if *method == Method::HEAD { "GET" } else { method.as_str() };
    let mut of_path = ROUTES.iter().filter(|route| route.path == path).peekable();
    if of_path.peek().is_none() {
        return Some(Route { method: "", path: "", scope: Scope::Admin, action: Some("unlisted") });
    }
    of_path.find(|route| route.method == method).copied()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_route_stands_in_the_table_once_and_what_does_not_is_the_operator_s() {
        let all: BTreeSet<(&str, &str)> = ROUTES.iter().map(|route| (route.method, route.path)).collect();
        assert_eq!(all.len(), ROUTES.len());
        assert_eq!(route(&Method::HEAD, "/webhooks").map(|route| route.scope), Some(Scope::Read));
        assert_eq!(route(&Method::DELETE, "/webhooks"), None, "the router answers 405");
        assert_eq!(route(&Method::GET, "/new").map(|route| route.scope), Some(Scope::Admin));
        let unaudited = ROUTES.iter().filter(|route| route.method != "GET" && route.action.is_none());
        let unaudited: Vec<&str> = unaudited.map(|route| route.path).collect();
        let expected =
            ["/events", "/events/batch", "/events/tickets", "/events/clients/{id}/token", "/plugins/{name}/dry-run"];
        assert_eq!(unaudited, expected, "what changes nothing");
        let by_ticket: Vec<&str> =
            ROUTES.iter().filter(|route| route.takes_tickets()).map(|route| route.path).collect();
        assert_eq!(by_ticket, BY_TICKET);
    }
}
