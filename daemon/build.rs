//! Compiles the web console in: makes a table of the files below `console/dist`, which `cargo xtask build` fills. Without
//! them the table is empty, and the daemon serves a page that says how to get the console.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").ok_or(io::ErrorKind::NotFound)?);
    let dist = manifest.with_file_name("console").join("dist");
    // A path that is not there would have this run, and the daemon compiled, each time. A checkout has the folder, with
    // nothing but its `.gitignore`; where the daemon's package stands alone there is none.
    println!("cargo::rerun-if-changed=build.rs");
    if dist.is_dir() {
        println!("cargo::rerun-if-changed={}", dist.display());
    }
    let mut files = Vec::new();
    if dist.join("index.html").is_file() {
        collect(&dist, &mut files)?;
    }
    files.sort();
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or(io::ErrorKind::NotFound)?);
    let mut table = String::from("&[\n");
    for (n, file) in files.iter().enumerate() {
        let name = file.strip_prefix(&dist).unwrap_or(file).to_string_lossy();
        // A copy, which the compiler still finds when the console is built again meanwhile.
        let copy = format!("console-{n}");
        fs::copy(file, out.join(&copy))?;
        let _ = writeln!(table, "    ({name:?}, include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{copy}\"))),");
    }
    table.push(']');
    fs::write(out.join("console.rs"), table)
}

/// The files below a folder that are not hidden.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.')) {
            continue;
        }
        if path.is_dir() {
            collect(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}
