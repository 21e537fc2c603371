//! The core module of a plugin put together by hand: its memory, laid out as the canonical ABI has it, and its functions.

use wasm_encoder::{
    BlockType, CodeSection, ConstExpr, DataSection, ExportKind, ExportSection, Function, FunctionSection,
    GlobalSection, GlobalType, HeapType, InstructionSink, MemArg, MemorySection, MemoryType, Module, RefType,
    TableSection, TableType, TypeSection, ValType,
};

use super::Act;

/// The memory's pages: room for events of some 250 KB.
pub(super) const PAGES: u64 = 4;

/// Nothing but zeros: a result that is right and empty.
const ZEROS: i32 = 0;
/// A record `description`, of 48 bytes.
const DESCRIPTION: i32 = 64;
/// A result with a list of one output, of 12 bytes.
const APPLIED: i32 = 128;
/// A record `output`, of 40 bytes.
const OUTPUT: i32 = 192;
/// The texts of the description.
const TEXTS: i32 = 256;
/// Where the host puts what it gives.
const HEAP: i32 = 4096;
/// Where `data` stands in a record `event`.
const EVENT_DATA: u64 = 68;
/// A place outside of any memory.
const OUTSIDE: i32 = -16;

const TABLE: u32 = 0;
const HEAP_TOP: u32 = 0;

/// The functions, with the numbers of their types.
const FUNCTIONS: [(&str, u32); 5] = [("describe", 0), ("configure", 1), ("keep", 2), ("apply", 2), ("realloc", 3)];

/// The whole module.
pub(super) fn module(describe: Act, apply: Act, memory_pages: u64) -> Module {
    let mut types = TypeSection::new();
    for params in [0, 2, 1, 4] {
        types.ty().function([ValType::I32].repeat(params), [ValType::I32]);
    }
    let mut functions = FunctionSection::new();
    let mut exports = ExportSection::new();
    for (index, (name, shape)) in (0..).zip(FUNCTIONS) {
        functions.function(shape);
        exports.export(name, ExportKind::Func, index);
    }
    exports.export("memory", ExportKind::Memory, 0);
    let mut tables = TableSection::new();
    tables.table(TableType {
        element_type: RefType::FUNCREF,
        table64: false,
        minimum: 1,
        maximum: None,
        shared: false,
    });
    let mut memories = MemorySection::new();
    memories.memory(MemoryType {
        minimum: memory_pages,
        maximum: None,
        memory64: false,
        shared: false,
        page_size_log2: None,
    });
    let mut globals = GlobalSection::new();
    globals.global(GlobalType { val_type: ValType::I32, mutable: true, shared: false }, &ConstExpr::i32_const(HEAP));
    let mut code = CodeSection::new();
    for function in [described(describe), answered(ZEROS), answered(ZEROS), applied(apply), reallocated()] {
        code.function(&function);
    }
    let mut data = DataSection::new();
    for (place, bytes) in constants() {
        data.active(0, &ConstExpr::i32_const(place), bytes);
    }
    let mut module = Module::new();
    module.section(&types).section(&functions).section(&tables).section(&memories).section(&globals);
    module.section(&exports).section(&code).section(&data);
    module
}

/// What stands in memory from the start.
fn constants() -> Vec<(i32, Vec<u8>)> {
    let (mut texts, mut description) = (Vec::new(), Vec::new());
    for text in ["by-hand", "0.1.0", "Keeps every event and passes it on.", "{}"] {
        description.extend_from_slice(&words(&[TEXTS + length(&texts), length(text.as_bytes())]));
        texts.extend_from_slice(text.as_bytes());
    }
    // It needs the payload, and all headers.
    description.extend_from_slice(&words(&[1, 1, 0, 0]));
    vec![(DESCRIPTION, description), (APPLIED, words(&[0, OUTPUT, 1])), (TEXTS, texts)]
}

fn words(words: &[i32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn length(bytes: &[u8]) -> i32 {
    i32::try_from(bytes.len()).expect("some hundred bytes")
}

fn function(code: impl FnOnce(&mut InstructionSink<'_>)) -> Function {
    let mut function = Function::new([]);
    code(&mut function.instructions());
    function.instructions().end();
    function
}

/// Gives back what the host put there, and answers with a place.
fn answered(place: i32) -> Function {
    function(|code| {
        code.i32_const(HEAP).global_set(HEAP_TOP).i32_const(place);
    })
}

fn described(act: Act) -> Function {
    function(|code| {
        misbehave(act, code);
        if act == Act::NotUtf8 {
            // The name becomes two bytes that begin no character, which stand in the heap.
            store(code, HEAP, 0, 0xFEFE);
            store(code, DESCRIPTION, 0, HEAP);
            store(code, DESCRIPTION, 4, 2);
        }
        code.i32_const(if act == Act::Outside { OUTSIDE } else { DESCRIPTION });
    })
}

fn applied(act: Act) -> Function {
    function(|code| {
        misbehave(act, code);
        for part in [0, 4] {
            code.i32_const(OUTPUT).local_get(0).i32_load(word(EVENT_DATA + part)).i32_store(word(part));
        }
        if act == Act::NotUtf8 {
            // A media type of two bytes that begin no character.
            store(code, ZEROS, 48, 0xFEFE);
            for (offset, value) in [(8, 1), (12, ZEROS + 48), (16, 2)] {
                store(code, OUTPUT, offset, value);
            }
        }
        if act == Act::Outside {
            store(code, APPLIED, 4, OUTSIDE);
        }
        code.i32_const(HEAP).global_set(HEAP_TOP).i32_const(APPLIED);
    })
}

/// What does not return.
fn misbehave(act: Act, code: &mut InstructionSink<'_>) {
    match act {
        Act::Loop => {
            code.loop_(BlockType::Empty).br(0).end();
        }
        Act::GrowTable => {
            code.loop_(BlockType::Empty);
            code.ref_null(HeapType::FUNC).i32_const(1_000).table_grow(TABLE);
            // -1 is no: then it gives up, as an allocator does that gets no memory.
            code.i32_const(-1).i32_ne().br_if(0).end().unreachable();
        }
        Act::Behave | Act::NotUtf8 | Act::Outside => {}
    }
}

fn store(code: &mut InstructionSink<'_>, place: i32, offset: u64, value: i32) {
    code.i32_const(place).i32_const(value).i32_store(word(offset));
}

/// `realloc(old, old_size, align, new_size)`: the next free place. Nothing is moved, since nothing the host gives grows.
fn reallocated() -> Function {
    function(|code| {
        // (top + align - 1) & -align
        code.global_get(HEAP_TOP).local_get(2).i32_add().i32_const(1).i32_sub();
        code.i32_const(0).local_get(2).i32_sub().i32_and().local_tee(0);
        code.local_get(3).i32_add().global_set(HEAP_TOP).local_get(0);
    })
}

fn word(offset: u64) -> MemArg {
    MemArg { offset, align: 2, memory_index: 0 }
}
