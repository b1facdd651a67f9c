use crate::mounted;
use std::{fs, os::unix::fs::PermissionsExt, process::Command};

fn executable(path: &std::path::Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn runs_scripts_and_programs() {
    let mount = mounted!();
    let script = mount.at("script");
    fs::write(&script, "#!/bin/sh\necho \"ran $1\"\n").unwrap();
    assert_eq!(Command::new(&script).status().unwrap_err().raw_os_error(), Some(libc::EACCES));
    executable(&script);
    let output = Command::new(&script).arg("it").output().unwrap();
    assert_eq!(output.stdout, b"ran it\n");
    let program = mount.at("true");
    fs::copy("/bin/true", &program).unwrap();
    executable(&program);
    assert!(Command::new(&program).status().unwrap().success());
}
