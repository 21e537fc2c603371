//! The guides: every page is in the book, every link leads somewhere, and every block of commands or code is run, or says by
//! which test it is shown.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use sluiced_tests::paths::{sluiced_binary, workspace};

mod links;
mod pages;
mod readme;
mod samples;
mod walk;
mod walks;

use pages::Page;

#[test]
fn every_page_is_in_the_summary() {
    let summary = fs::read_to_string(workspace().join("docs/SUMMARY.md")).expect("docs/SUMMARY.md");
    let listed: BTreeSet<String> =
        links::of(&summary).into_iter().map(|link| format!("docs/{}", link.target)).collect();
    let pages: BTreeSet<String> = pages::all().into_iter().map(|page| page.path).collect();
    let pages: BTreeSet<String> = pages.into_iter().filter(|path| path.starts_with("docs/")).collect();
    let missing: Vec<_> = pages.difference(&listed).filter(|path| *path != "docs/SUMMARY.md").collect();
    assert!(missing.is_empty(), "docs/SUMMARY.md does not list {missing:?}");
}

#[test]
fn every_heading_that_is_linked_to_is_there_and_every_picture_is_shown() {
    let pages = pages::all();
    let mut astray = Vec::new();
    let mut seen = 0;
    for page in &pages {
        for link in links::of(&page.text) {
            seen += 1;
            astray.extend(links::flaw(page, &link, &pages));
        }
    }
    assert!(seen > 300, "only {seen} links were understood");
    assert!(astray.is_empty(), "{}", astray.join("\n"));
    let pictures = fs::read_dir(workspace().join("docs/pictures")).expect("a folder");
    for picture in pictures {
        let name = picture.expect("an entry").file_name().to_string_lossy().into_owned();
        assert!(pages.iter().any(|page| page.text.contains(&format!("(pictures/{name})"))), "nobody shows {name}");
    }
}

#[test]
fn the_reference_of_the_configuration_is_what_the_code_says() {
    let told = Command::new(sluiced_binary()).arg("config-reference").output().expect("it runs");
    assert!(told.status.success(), "{told:?}");
    let page = fs::read_to_string(workspace().join("docs/configuration.md")).expect("docs/configuration.md");
    assert!(
        page == String::from_utf8_lossy(&told.stdout),
        "renew it: cargo run --bin sluiced -- config-reference > docs/configuration.md"
    );
}

/// A page by its path.
fn page(path: &str) -> Page {
    let found = pages::all().into_iter().find(|page| page.path == path);
    found.unwrap_or_else(|| panic!("there is no page {path}"))
}
