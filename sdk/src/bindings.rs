//! The generated bindings, in one part an exported interface: a component exports `lifecycle` and either or both of the
//! others, and each part's export macro adds its own share of the component's type. Joined by the linker, the parts give
//! exactly the worlds of `wit/plugin.wit`. Three whole worlds could not live in one crate, because their macros would
//! share names.

use crate::log::Level;

/// The host's log, and the lifecycle that every plugin exports.
pub mod lifecycle {
    wit_bindgen::generate!({
        path: "wit",
        inline: "
            package sluiced:parts-lifecycle;
            world lifecycle-part {
                import sluiced:plugin/log@1.0.0;
                export sluiced:plugin/lifecycle@1.0.0;
            }
        ",
        with: {
            "sluiced:plugin/types@1.0.0": crate::event,
            "sluiced:plugin/log@1.0.0": generate,
        },
        pub_export_macro: true,
    });
}

/// The interface of a filter.
pub mod filter {
    wit_bindgen::generate!({
        path: "wit",
        inline: "
            package sluiced:parts-filter;
            world filter-part {
                export sluiced:plugin/filter@1.0.0;
            }
        ",
        with: { "sluiced:plugin/types@1.0.0": crate::event },
        pub_export_macro: true,
    });
}

/// The interface of a transform.
pub mod transform {
    wit_bindgen::generate!({
        path: "wit",
        inline: "
            package sluiced:parts-transform;
            world transform-part {
                export sluiced:plugin/transform@1.0.0;
            }
        ",
        with: { "sluiced:plugin/types@1.0.0": crate::event },
        pub_export_macro: true,
    });
}

/// Calls the host's log.
pub(crate) fn log(level: Level, message: &str) {
    use lifecycle::sluiced::plugin::log;
    let level = match level {
        Level::Debug => log::Level::Debug,
        Level::Info => log::Level::Info,
        Level::Warn => log::Level::Warn,
        Level::Error => log::Level::Error,
    };
    log::write(level, message);
}
