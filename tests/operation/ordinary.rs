//! A cluster that an ordinary user runs for himself.

use crate::common::{BIN, may_mount, text};
use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::Path,
    process::Command,
};

/// In a mount namespace of its own, where everybody may open `/dev/fuse`, as on the usual desktop.
const AS_NOBODY: &str = r#"
mknod fuse c 10 229 && chmod 666 fuse && mount --bind fuse /dev/fuse
exec setpriv --reuid nobody --regid "$(id -g nobody)" --clear-groups env HOME="$PWD/home" HYDFS_BIN="$PWD/hydfs" bash -ec '
trap "scripts/cluster down home/c" EXIT
scripts/cluster up -n 3 home/c
echo hello > home/c/n1/mnt/in
mkdir home/c/n2/mnt/dir
cat > home/c/n3/mnt/.jobs/mine.toml <<SPEC
version = 1
[[source]]
name = "in"
path = "/in"
[[stage]]
name = "all"
from = "in"
op = { filter = { contains = "e" } }
SPEC
./hydfs job await mine --timeout 60 --data home/c/n1/data
echo said: "$(cat home/c/n2/mnt/.jobs/mine/output)"
'"#;

#[test]
fn an_ordinary_user_owns_the_cluster_that_he_makes() {
    if !may_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let open = |path: &Path| {
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(path, mode).unwrap();
    };
    open(dir.path());
    fs::copy(BIN, dir.path().join("hydfs")).unwrap();
    open(&dir.path().join("hydfs"));
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts");
    let copied = Command::new("cp")
        .arg("-r")
        .args([&scripts, dir.path()])
        .status();
    assert!(copied.unwrap().success());
    fs::create_dir(dir.path().join("home")).unwrap();
    chown(dir.path().join("home"), Some(65534), Some(65534)).unwrap();
    let out = Command::new("unshare")
        .args(["-m", "sh", "-c", AS_NOBODY])
        .current_dir(dir.path())
        .output()
        .unwrap();
    let said = [text(&out.stdout), text(&out.stderr)].concat();
    assert!(out.status.success(), "{said}");
    assert!(said.contains("said: hello\n"), "{said}");
}
