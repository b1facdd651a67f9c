//! What the sources themselves must keep.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The only places that may go around the compiler's rules: thin wrappers of system calls, without shared memory but for
/// that of the memory file, which is atomic integers, and pages of bytes that have one owner each.
const WRAPPERS: [&str; 7] = [
    "mount/sys.rs",
    "rainstorm/sandbox.rs",
    "src/types/suspend.rs",
    "src/cli/process.rs",
    "src/memory/map.rs",
    "src/sim/chance.rs",
    "src/store/sys.rs",
];
/// A file with one such function: the descriptor that the supervisor handed over.
const FUNCTIONS: [&str; 1] = ["src/node/lib.rs"];
/// Part of tests alone: an allocator that measures what decoders take.
const MEASURES: [&str; 1] = ["src/types/garbage_tests.rs"];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "tests" {
            sources(&path, found);
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
}

fn shared<T: Send + Sync>() {}

/// The predecessor's maps and lists were shared by many threads without locks. Safe Rust has no data race, so the proof
/// is the compiler's where nothing goes around it: `unsafe` is denied for the workspace, and stands in these files alone.
#[test]
fn fault_m11_shared_memory_is_guarded_by_types() {
    shared::<hydfs_node::Member>();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    assert!(manifest.contains("unsafe_code = \"deny\""));
    let mut found = Vec::new();
    for folder in ["src", "mount", "rainstorm"] {
        sources(&root.join(folder), &mut found);
    }
    assert!(found.len() > 100, "{} files were looked at", found.len());
    for path in found {
        let name = path
            .strip_prefix(root)
            .unwrap()
            .to_string_lossy()
            .into_owned();
        if MEASURES.contains(&name.as_str()) {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        for word in ["static mut", "unsafe impl"] {
            assert!(!text.contains(word), "{name}: {word}");
        }
        if WRAPPERS.contains(&name.as_str()) {
            continue;
        }
        let allowed = text.matches("allow(unsafe_code").count();
        let wanted = usize::from(FUNCTIONS.contains(&name.as_str()));
        assert_eq!(allowed, wanted, "{name} lets unsafe code in");
    }
    for folder in fs::read_dir(root.join("src")).unwrap() {
        let manifest = folder.unwrap().path().join("Cargo.toml");
        if let Ok(text) = fs::read_to_string(&manifest) {
            assert!(
                text.contains("[lints]\nworkspace = true"),
                "{}",
                manifest.display()
            );
        }
    }
}
