//! The one macro that makes a component of an author's types.

/// Makes the crate a component. Call it once, at the root of a library with `crate-type = ["cdylib", "rlib"]`.
///
/// - `export!(filter: F)` for a [`Filter`](crate::Filter);
/// - `export!(transform: T)` for a [`Transform`](crate::Transform);
/// - `export!(filter + transform: P)` for one type that is both;
/// - `export!(filter: F, transform: T)` for two types with the same configuration.
///
/// The plugin takes its name from the library (`CARGO_CRATE_NAME`) and its version from the package. Natively the macro
/// only checks the types, so that unit tests link like those of any other crate.
#[macro_export]
macro_rules! export {
    (filter: $filter:ty $(,)?) => {
        const _: () = {
            $crate::component::must_filter::<$filter>();
    $crate::__component!([$filter] describe $crate::component::describe::<$filter>, filter $filter);
        };
    };
    (transform: $transform:ty $(,)?) => {
        const _: () = {
            $crate::component::must_transform::<$transform>();
    $crate::__component!([$transform] describe $crate::component::describe::<$transform>, transform $transform);
        };
    };
    (filter + transform: $both:ty $(,)?) => {
        const _: () = {
            $crate::component::must_filter::<$both>();
            $crate::component::must_transform::<$both>();
    $crate::__component!([$both] describe $crate::component::describe::<$both>, filter $both, transform $both);
        };
    };
    (filter: $filter:ty, transform: $transform:ty $(,)?) => {
        const _: () = {
            $crate::component::must_filter::<$filter>();
            $crate::component::must_transform::<$transform>();
            $crate::__component!(
                [$filter, $transform] describe $crate::component::describe_both::<$filter, $transform>,
                filter $filter, transform $transform
            );
        };
    };
}

/// Natively there is nothing to export.
#[cfg(not(target_family = "wasm"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __component {
    ($($anything:tt)*) => {};
}

/// The component's guest: `lifecycle`, then each role with the type that plays it.
#[cfg(target_family = "wasm")]
#[doc(hidden)]
#[macro_export]
macro_rules! __component {
    ([$($plugin:ty),+] describe $describe:expr, $($role:ident $player:ty),+) => {
        struct __SluicedComponent;

        $(
            impl $crate::component::Hosted for $plugin {
                fn slot<R>(use_slot: impl ::core::ops::FnOnce(&$crate::component::Slot<Self>) -> R) -> R {
                    ::std::thread_local! {
                        static SLOT: $crate::component::Slot<$plugin> = const { $crate::component::Slot::empty() };
                    }
                    SLOT.with(use_slot)
                }
            }
        )+

        impl $crate::bindings::lifecycle::exports::sluiced::plugin::lifecycle::Guest for __SluicedComponent {
            fn describe() -> $crate::Description {
                $describe(::core::env!("CARGO_CRATE_NAME"), ::core::env!("CARGO_PKG_VERSION"))
            }

            fn configure(config: ::std::string::String) -> ::core::result::Result<(), ::std::string::String> {
                $(<$plugin as $crate::component::Hosted>::slot(|slot| slot.configure(&config))?;)+
                ::core::result::Result::Ok(())
            }
        }
        $crate::bindings::lifecycle::export!(__SluicedComponent with_types_in $crate::bindings::lifecycle);
        $($crate::__role!($role $player);)+
    };
}

/// One exported interface, with the type that plays it.
#[cfg(target_family = "wasm")]
#[doc(hidden)]
#[macro_export]
macro_rules! __role {
    (filter $player:ty) => {
        impl $crate::bindings::filter::exports::sluiced::plugin::filter::Guest for __SluicedComponent {
            fn keep(event: $crate::Event) -> ::core::result::Result<$crate::Verdict, ::std::string::String> {
                <$player as $crate::component::Hosted>::slot(|slot| {
                    slot.call(|plugin| <$player as $crate::Filter>::keep(plugin, &event))
                })
            }
        }
        $crate::bindings::filter::export!(__SluicedComponent with_types_in $crate::bindings::filter);
    };
    (transform $player:ty) => {
        impl $crate::bindings::transform::exports::sluiced::plugin::transform::Guest for __SluicedComponent {
            fn apply(
                event: $crate::Event,
            ) -> ::core::result::Result<::std::vec::Vec<$crate::Output>, ::std::string::String> {
                <$player as $crate::component::Hosted>::slot(|slot| {
                    slot.call(|plugin| <$player as $crate::Transform>::apply(plugin, event))
                })
            }
        }
        $crate::bindings::transform::export!(__SluicedComponent with_types_in $crate::bindings::transform);
    };
}
