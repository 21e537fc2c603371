//! Plugins put together by hand, of about a kilobyte: what no tool chain would make, and what compiles in milliseconds.

use wasm_encoder::{
    CanonicalOption, ComponentBuilder, ComponentExportKind, ComponentExportSection, ComponentInstanceSection,
    ComponentSection as _, ComponentTypeRef, ComponentValType, ExportKind, InstanceType, Module, ModuleArg,
    PrimitiveValType, TypeBounds,
};

mod core;

/// The contract's package, as a component of its own version has it.
const PACKAGE: &str = "sluiced:plugin";
const STRING: ComponentValType = ComponentValType::Primitive(PrimitiveValType::String);

/// A plugin that is a filter and a transform. As it stands it behaves: it keeps every event and passes it on.
#[derive(Debug, Clone)]
pub struct Component {
    package: String,
    version: String,
    imports: Vec<String>,
    describe: Act,
    apply: Act,
    memory_pages: u64,
    keep_like_describe: bool,
    without_configure: bool,
}

/// What one of its functions does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// What it should.
    Behave,
    /// Never returns.
    Loop,
    /// Makes its table larger without end.
    GrowTable,
    /// Answers with a text that is not UTF-8.
    NotUtf8,
    /// Answers with a place outside of its memory.
    Outside,
}

impl Default for Component {
    fn default() -> Self {
        Self {
            package: PACKAGE.to_owned(),
            version: "1.0.0".to_owned(),
            imports: Vec::new(),
            describe: Act::Behave,
            apply: Act::Behave,
            memory_pages: core::PAGES,
            keep_like_describe: false,
            without_configure: false,
        }
    }
}

impl Component {
    /// For another world than a plugin's: the same interfaces of a package of that name.
    #[must_use]
    pub fn package(mut self, package: &str) -> Self {
        package.clone_into(&mut self.package);
        self
    }

    /// For another version of the contract.
    #[must_use]
    pub fn version(mut self, version: &str) -> Self {
        version.clone_into(&mut self.version);
        self
    }

    /// Imports an interface besides.
    #[must_use]
    pub fn import(mut self, interface: &str) -> Self {
        self.imports.push(interface.to_owned());
        self
    }

    /// What `lifecycle.describe` does.
    #[must_use]
    pub fn describe(mut self, act: Act) -> Self {
        self.describe = act;
        self
    }

    /// What `transform.apply` does.
    #[must_use]
    pub fn apply(mut self, act: Act) -> Self {
        self.apply = act;
        self
    }

    /// The memory that it has from the start, in pages of 64 KiB; at least 4.
    #[must_use]
    pub fn memory_pages(mut self, pages: u64) -> Self {
        self.memory_pages = pages;
        self
    }

    /// Gives `filter.keep` the type of `lifecycle.describe`.
    #[must_use]
    pub fn keep_like_describe(mut self) -> Self {
        self.keep_like_describe = true;
        self
    }

    /// Leaves `lifecycle.configure` out.
    #[must_use]
    pub fn without_configure(mut self) -> Self {
        self.without_configure = true;
        self
    }

    /// The component, as the file of a plugin.
    pub fn wasm(&self) -> Vec<u8> {
        let mut builder = ComponentBuilder::default();
        let shape = builder.type_instance(None, &types());
        let types = builder.import(&*self.interface("types"), ComponentTypeRef::Instance(shape));
        for import in &self.imports {
            let nothing = builder.type_instance(None, &InstanceType::new());
            builder.import(&**import, ComponentTypeRef::Instance(nothing));
        }
        let [event, verdict, output, description] = ["event", "verdict", "output", "description"]
            .map(|name| ComponentValType::Type(builder.alias_export(types, name, ComponentExportKind::Type)));
        let (list, encoder) = builder.type_defined(None);
        encoder.list(output);
        let [configured, kept, applied] = [None, Some(verdict), Some(ComponentValType::Type(list))].map(|ok| {
            let (shape, encoder) = builder.type_defined(None);
            encoder.result(ok, Some(STRING));
            ComponentValType::Type(shape)
        });
        let code = core::module(self.describe, self.apply, self.memory_pages);
        let mut lift = Lift::new(builder, &code);
        let describe = lift.function("describe", &[], description);
        let configure = lift.function("configure", &[("config", STRING)], configured);
        let keep = lift.function("keep", &[("event", event)], kept);
        let apply = lift.function("apply", &[("event", event)], applied);
        let lifecycle = [("describe", describe), ("configure", configure)];
        self.exported(
            lift.builder.finish(),
            &[
                ("lifecycle", if self.without_configure { &lifecycle[..1] } else { &lifecycle }),
                ("filter", &[("keep", if self.keep_like_describe { describe } else { keep })]),
                ("transform", &[("apply", apply)]),
            ],
        )
    }

    fn interface(&self, name: &str) -> String {
        format!("{}/{name}@{}", self.package, self.version)
    }

    /// The component with its interfaces exported: the builder has no call for these two sections.
    fn exported(&self, mut wasm: Vec<u8>, interfaces: &[(&str, &[(&str, u32)])]) -> Vec<u8> {
        let mut instances = ComponentInstanceSection::new();
        let mut exports = ComponentExportSection::new();
        // What is imported has the first numbers: `types`, and the others.
        let first = u32::try_from(self.imports.len()).expect("some imports") + 1;
        for (index, (name, functions)) in (first..).zip(interfaces) {
            let items = functions.iter().map(|(name, function)| (*name, ComponentExportKind::Func, *function));
            instances.export_items(items.collect::<Vec<_>>());
            exports.export(&*self.interface(name), ComponentExportKind::Instance, index, None);
        }
        instances.append_to_component(&mut wasm);
        exports.append_to_component(&mut wasm);
        wasm
    }
}

/// Makes functions of the component out of those of its core module.
struct Lift {
    builder: ComponentBuilder,
    instance: u32,
    options: [CanonicalOption; 3],
}

impl Lift {
    fn new(mut builder: ComponentBuilder, code: &Module) -> Self {
        let code = builder.core_module(None, code);
        let nothing: [(&str, ModuleArg); 0] = [];
        let instance = builder.core_instantiate(None, code, nothing);
        let memory = builder.core_alias_export(None, instance, "memory", ExportKind::Memory);
        let realloc = builder.core_alias_export(None, instance, "realloc", ExportKind::Func);
        let options = [CanonicalOption::UTF8, CanonicalOption::Memory(memory), CanonicalOption::Realloc(realloc)];
        Self { builder, instance, options }
    }

    fn function(&mut self, name: &str, params: &[(&str, ComponentValType)], result: ComponentValType) -> u32 {
        let (shape, mut encoder) = self.builder.type_function(None);
        encoder.params(params.iter().copied()).result(Some(result));
        let function = self.builder.core_alias_export(None, self.instance, name, ExportKind::Func);
        self.builder.lift_func(None, function, shape, self.options)
    }
}

/// The contract's interface `types`.
fn types() -> InstanceType {
    let mut types = InstanceType::new();
    let own = ComponentValType::Type;
    let (boolean, byte, number) = (PrimitiveValType::Bool, PrimitiveValType::U8, PrimitiveValType::U64);
    let [boolean, byte, number] = [boolean, byte, number].map(ComponentValType::Primitive);
    // A type that is exported has two numbers: its own, and that of the name.
    let name = |types: &mut InstanceType, name: &str| {
        let last = types.type_count() - 1;
        types.export(name, ComponentTypeRef::Type(TypeBounds::Eq(last)));
        own(types.type_count() - 1)
    };
    let list = |types: &mut InstanceType, of| {
        types.ty().defined_type().list(of);
        own(types.type_count() - 1)
    };
    types.ty().defined_type().option(STRING);
    let maybe = own(types.type_count() - 1);
    let bytes = list(&mut types, byte);
    types.ty().defined_type().record([("name", STRING), ("value", STRING)]);
    let header = name(&mut types, "header");
    let headers = list(&mut types, header);
    types.ty().defined_type().record([
        ("id", STRING),
        ("type", STRING),
        ("subject", STRING),
        ("stream", STRING),
        ("sequence", number),
        ("time-ms", number),
        ("content-type", maybe),
        ("headers", headers),
        ("data", bytes),
    ]);
    name(&mut types, "event");
    types.ty().defined_type().variant([("keep", None), ("drop", Some(maybe))]);
    name(&mut types, "verdict");
    types.ty().defined_type().record([("data", bytes), ("content-type", maybe), ("headers", headers), ("type", maybe)]);
    name(&mut types, "output");
    let texts = list(&mut types, STRING);
    types.ty().defined_type().variant([("none", None), ("all", None), ("named", Some(texts))]);
    let header_needs = name(&mut types, "header-needs");
    types.ty().defined_type().record([
        ("name", STRING),
        ("version", STRING),
        ("summary", STRING),
        ("config-schema", STRING),
        ("needs-payload", boolean),
        ("needs-headers", header_needs),
    ]);
    name(&mut types, "description");
    types
}
