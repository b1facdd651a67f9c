use crate::{
    harness::{shell, text},
    mounted,
};
use std::process::Command;

// Other processes write what is run here: a descriptor of this one, inherited for a moment by a child of
// another test, would make the file busy.

#[test]
fn runs_scripts_and_programs() {
    let mount = mounted!();
    shell(
        r#"printf '#!/bin/sh\necho "ran $1"\n' > script; cp /bin/true program"#,
        &mount.path,
    );
    let script = mount.at("script");
    assert_eq!(
        Command::new(&script).status().unwrap_err().raw_os_error(),
        Some(libc::EACCES)
    );
    shell("chmod 755 script program", &mount.path);
    let output = Command::new(&script).arg("it").output().unwrap();
    assert_eq!(text(&output.stdout), "ran it\n");
    assert!(
        Command::new(mount.at("program"))
            .status()
            .unwrap()
            .success()
    );
}
