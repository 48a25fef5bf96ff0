//! Everything fuzzing has been given or has found, replayed through the same functions on every test run.

use std::fs;
use std::path::Path;

mod common;

use common::fuzz_bodies::TARGETS;

#[test]
fn every_file_of_the_corpus_is_digested() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (name, body) in TARGETS {
        let directory = corpus.join(name);
        let files =
            fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
        let mut count = 0;
        for file in files {
            let path = file.expect("an entry of the corpus").path();
            body(&fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())));
            count += 1;
        }
        assert!(count > 0, "{name}: no corpus");
    }
}
