//! Writes what fuzzing begins with: small plugins, good ones and bad ones. `seeds FOLDER`

use std::path::PathBuf;
use std::{env, fs, io};

use sluiced_tests::component::{Act, Component};

fn main() -> io::Result<()> {
    let folder = PathBuf::from(env::args_os().nth(1).unwrap_or_else(|| "corpus/load".into()));
    fs::create_dir_all(&folder)?;
    let whole = Component::default;
    for (name, component) in [
        ("behaves", whole()),
        ("not-utf8", whole().apply(Act::NotUtf8)),
        ("not-utf8-description", whole().describe(Act::NotUtf8)),
        ("outside", whole().apply(Act::Outside)),
        ("grows-a-table", whole().apply(Act::GrowTable)),
        ("imports", whole().import("wasi:cli/environment@0.2.6").import("own:files/open@1.0.0")),
        ("another-version", whole().version("2.0.0")),
        ("another-world", whole().package("other:thing")),
        ("another-type", whole().keep_like_describe()),
        ("no-configure", whole().without_configure()),
    ] {
        fs::write(folder.join(name), component.wasm())?;
    }
    Ok(())
}
