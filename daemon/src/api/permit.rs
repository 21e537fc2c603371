//! What somebody may make a webhook of: whose it may be, which event types it may name, and which keys are the operator's
//! alone because they reach into the daemon's own machine.

use serde_json::Value;

use super::Problem;
use super::principal::Asker;
use super::problem::Code;
use super::webhooks::Definition;
use crate::domain::{Owner, Pattern};

/// Keys of `tls` that name files of the daemon's machine.
const TLS_FILES: [&str; 3] = ["ca_file", "client_cert_file", "client_key_file"];
/// Keys of a filter or a transform that say what it may cost.
const PLUGIN_LIMITS: [&str; 5] =
    ["call_deadline_ms", "memory_mib_max", "output_kib_max", "warm_instances_max", "calls_per_instance_max"];

/// Whose a new webhook is to be: an owner's own, or whose the operator says.
///
/// # Errors
/// When an owner names somebody else.
pub(super) fn owner_of_new(asker: &Asker, named: Option<Option<Owner>>) -> Result<Option<Owner>, Problem> {
    match (asker.principal().owner(), named) {
        (None, named) => Ok(named.flatten()),
        (Some(own), None) => Ok(Some(own.clone())),
        (Some(own), Some(Some(named))) if *own == named => Ok(Some(named)),
        (Some(_), Some(_)) => Err(operator_only("owner")),
    }
}

/// Whose a webhook is to be after a change; `None` leaves it as it is.
///
/// # Errors
/// When an owner names somebody else.
pub(super) fn owner_of_changed(asker: &Asker, named: Option<Option<Owner>>) -> Result<Option<Option<Owner>>, Problem> {
    named.map(|named| owner_of_new(asker, Some(named))).transpose()
}

/// May the asker have a webhook with these keys? `kept` are those of before a change, of which the types count when none are
/// named. What is no pattern is told of later, with everything else that is wrong.
///
/// # Errors
/// When a type lies outside of the asker's allow-list, or a key is the operator's alone.
pub(super) fn definition(asker: &Asker, asked: &Definition, kept: Option<&Definition>) -> Result<(), Problem> {
    let named = asked.get("types").or_else(|| kept.and_then(|kept| kept.get("types")));
    let texts = named.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    let types: Vec<Pattern> = texts.filter_map(|text| Pattern::parse(text).ok()).collect();
    asker.within(&types)?;
    if asker.principal().owner().is_none() {
        return Ok(());
    }
    let has =
        |value: &Value, keys: &[&str]| keys.iter().find(|key| value.get(**key).is_some()).map(ToString::to_string);
    if let Some(key) = asked.get("tls").and_then(|tls| has(tls, &TLS_FILES)) {
        return Err(operator_only(&format!("tls.{key}")));
    }
    for list in ["filters", "transforms"] {
        let uses = asked.get(list).and_then(Value::as_array).into_iter().flatten();
        if let Some((at, key)) = uses.enumerate().find_map(|(at, used)| Some((at, has(used, &PLUGIN_LIMITS)?))) {
            return Err(operator_only(&format!("{list}[{at}].{key}")));
        }
    }
    Ok(())
}

fn operator_only(key: &str) -> Problem {
    Problem::new(Code::OperatorOnly, format!("`{key}`: only the operator may say that"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::{Owners, Principal};
    use crate::domain::{AllowList, Scopes};

    fn asker(types: &[&str]) -> Asker {
        let types = AllowList::of(types.iter().copied(), None).expect("patterns");
        Asker::new(Principal::token(owner("u1"), types, Scopes::OWNER), Owners::default())
    }

    fn owner(text: &str) -> Owner {
        Owner::parse(text).expect("an owner")
    }

    fn keys(value: Value) -> Definition {
        serde_json::from_value(value).expect("an object")
    }

    #[test]
    fn an_owner_has_webhooks_of_its_own_and_of_its_types_only() {
        let own = asker(&["a.>"]);
        assert_eq!(owner_of_new(&own, None), Ok(Some(owner("u1"))));
        assert_eq!(owner_of_new(&own, Some(Some(owner("u1")))), Ok(Some(owner("u1"))));
        for other in [Some(None), Some(Some(owner("u2")))] {
            assert_eq!(owner_of_new(&own, other).expect_err("another").code(), Code::OperatorOnly);
        }
        assert_eq!(owner_of_changed(&own, None), Ok(None));
        let narrow = keys(json!({ "types": ["a.b"] }));
        assert_eq!(definition(&own, &narrow, None), Ok(()));
        let wide = keys(json!({ "types": ["a.b", ">"] }));
        assert_eq!(definition(&own, &wide, None).expect_err("too wide").code(), Code::TypesNotAllowed);
        // Another URL for types that it may no longer have is refused as well.
        let url = keys(json!({ "url": "https://x" }));
        assert_eq!(definition(&own, &url, Some(&wide)).expect_err("too wide").code(), Code::TypesNotAllowed);
        assert_eq!(definition(&own, &narrow, Some(&wide)), Ok(()));
    }

    #[test]
    fn what_reaches_into_the_machine_is_the_operator_s() {
        for (body, key) in [
            (json!({ "tls": { "client_key_file": "/etc/key" } }), "tls.client_key_file"),
            (json!({ "filters": [{ "plugin": "jq" }, { "plugin": "jq", "memory_mib_max": 1 }] }), "filters[1].memory"),
            (json!({ "transforms": [{ "call_deadline_ms": 1 }] }), "transforms[0].call_deadline_ms"),
        ] {
            let problem = definition(&asker(&[">"]), &keys(body.clone()), None).expect_err(key);
            assert!(problem.code() == Code::OperatorOnly && format!("{problem:?}").contains(key), "{problem:?}");
            let operator = Asker::new(Principal::admin(), Owners::default());
            assert_eq!(definition(&operator, &keys(body), None), Ok(()));
        }
        assert_eq!(definition(&asker(&[">"]), &keys(json!({ "tls": { "min_version": "1.3" } })), None), Ok(()));
    }
}
