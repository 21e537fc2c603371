//! What a component must export and may import to be a plugin.

use wasmtime::Engine;
use wasmtime::component::types::Component as ComponentType;
use wasmtime::component::{Component, InstancePre, Linker};

use super::bindings::v1::exports::sluiced::plugin::{filter, lifecycle, transform};
use super::engine::below;
use super::error::Error;
use super::state::State;

/// The package of the contract, without its version.
const PACKAGE: &str = "sluiced:plugin/";
/// The versions of the contract that this host knows, for people.
pub(super) const KNOWN: &str = "1.0.0";
/// What a plugin may import of the contract.
const OFFERED: [&str; 2] = ["sluiced:plugin/log@1.0.0", "sluiced:plugin/types@1.0.0"];
/// What it must export.
const LIFECYCLE: &str = "sluiced:plugin/lifecycle@1.0.0";
/// What it exports to be a filter.
const FILTER: &str = "sluiced:plugin/filter@1.0.0";
/// What it exports to be a transform.
const TRANSFORM: &str = "sluiced:plugin/transform@1.0.0";
/// The WASI 0.2 packages that are linked, to an empty context.
const WASI: [&str; 6] = ["wasi:cli/", "wasi:clocks/", "wasi:filesystem/", "wasi:io/", "wasi:random/", "wasi:sockets/"];

/// A component that fits the contract, ready to be instantiated.
pub(super) struct Linked {
    /// What it imports, in its order: interfaces of the contract and of WASI.
    pub(super) imports: Box<[Box<str>]>,
    pub(super) pre: InstancePre<State>,
    pub(super) lifecycle: lifecycle::GuestIndices,
    pub(super) filter: Option<filter::GuestIndices>,
    pub(super) transform: Option<transform::GuestIndices>,
}

/// Checks the component against the contract and links it.
///
/// # Errors
/// With the names of what is foreign, missing or of another version.
pub(super) fn link(
    plugin: &str,
    engine: &Engine,
    linker: &Linker<State>,
    component: &Component,
) -> Result<Linked, Error> {
    let shape = component.component_type();
    check(plugin, engine, &shape)?;
    let pre = linker
        .instantiate_pre(component)
        .map_err(|source| Error::Link { plugin: plugin.into(), source: below(source) })?;
    let misfit = |source| Error::Shape { plugin: plugin.into(), source: below(source) };
    let has = |name| shape.get_export(engine, name).is_some();
    Ok(Linked {
        imports: shape.imports(engine).map(|(name, _)| name.into()).collect(),
        lifecycle: lifecycle::GuestIndices::new(&pre).map_err(misfit)?,
        filter: has(FILTER).then(|| filter::GuestIndices::new(&pre)).transpose().map_err(misfit)?,
        transform: has(TRANSFORM).then(|| transform::GuestIndices::new(&pre)).transpose().map_err(misfit)?,
        pre,
    })
}

fn check(plugin: &str, engine: &Engine, shape: &ComponentType) -> Result<(), Error> {
    let exports: Vec<&str> = shape.exports(engine).map(|(name, _)| name).collect();
    let imports: Vec<&str> = shape.imports(engine).map(|(name, _)| name).collect();
    let problem = judge(&imports, &exports);
    match problem {
        None => Ok(()),
        Some(Problem::Version(found)) => {
            Err(Error::Version { plugin: plugin.into(), found: found.into(), known: KNOWN })
        }
        Some(Problem::Missing(missing)) => {
            Err(Error::Exports { plugin: plugin.into(), missing, exports: listed(&exports) })
        }
        Some(Problem::Foreign(foreign)) => Err(Error::Imports { plugin: plugin.into(), imports: listed(&foreign) }),
    }
}

#[derive(Debug, PartialEq)]
enum Problem<'a> {
    Version(&'a str),
    Missing(&'static str),
    Foreign(Vec<&'a str>),
}

fn judge<'a>(imports: &[&'a str], exports: &[&'a str]) -> Option<Problem<'a>> {
    let known = |name: &str| [LIFECYCLE, FILTER, TRANSFORM].contains(&name) || OFFERED.contains(&name);
    let other_version = exports.iter().chain(imports).find(|name| name.starts_with(PACKAGE) && !known(name));
    if let Some(name) = other_version {
        return Some(Problem::Version(name));
    }
    if !exports.contains(&LIFECYCLE) {
        return Some(Problem::Missing(LIFECYCLE));
    }
    if !exports.contains(&FILTER) && !exports.contains(&TRANSFORM) {
        return Some(Problem::Missing("sluiced:plugin/filter@1.0.0 or sluiced:plugin/transform@1.0.0"));
    }
    let foreign: Vec<&str> = imports.iter().copied().filter(|name| !is_offered(name)).collect();
    (!foreign.is_empty()).then_some(Problem::Foreign(foreign))
}

fn is_offered(import: &str) -> bool {
    let wasi = WASI.iter().any(|package| import.starts_with(package)) && import.contains("@0.2.");
    wasi || OFFERED.contains(&import)
}

fn listed(names: &[&str]) -> Box<str> {
    if names.is_empty() { "nothing".into() } else { names.join(", ").into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_foreign_missing_or_of_another_version_is_named() {
        let wasi = "wasi:cli/environment@0.2.6";
        assert_eq!(judge(&[OFFERED[0], wasi], &[LIFECYCLE, FILTER]), None);
        assert_eq!(judge(&[], &[LIFECYCLE, TRANSFORM, "own:thing/x@2.0.0"]), None);
        assert_eq!(judge(&[], &[FILTER]), Some(Problem::Missing(LIFECYCLE)));
        assert!(matches!(judge(&[], &[LIFECYCLE]), Some(Problem::Missing(_))));
        let http = "wasi:http/outgoing-handler@0.2.0";
        assert_eq!(judge(&[wasi, http, "x"], &[LIFECYCLE, FILTER]), Some(Problem::Foreign(vec![http, "x"])));
        assert_eq!(
            judge(&["wasi:cli/run@0.3.0"], &[LIFECYCLE, FILTER]),
            Some(Problem::Foreign(vec!["wasi:cli/run@0.3.0"]))
        );
        let later = "sluiced:plugin/lifecycle@2.0.0";
        assert_eq!(judge(&[], &[later, FILTER]), Some(Problem::Version(later)));
    }
}
