use crate::{harness::shell, mounted};

/// A small tree with everything in it that tools trip over.
const TREE: &str = "mkdir -p t/a/b; echo one > t/one; ln t/one t/a/same; ln -s ../one t/a/link; chmod 640 t/one; \
    head -c 3000000 /dev/urandom > t/a/b/large; mkfifo t/pipe; touch -d '2001-01-01 UTC' t/a/b/large; chown 5:6 t/a; \
    truncate -s 5000000 t/sparse; touch 't/odd \n name'";

#[test]
fn fault_s18_cp_tar_and_rm() {
    let mount = mounted!();
    let outside = tempfile::tempdir().unwrap();
    shell(TREE, outside.path());
    let list = "cd t && find . -printf '%p %y %m %U %G %n %l\\n' | sort; find . -type f -printf '%p %s %T@\\n' | sort";
    let expected = shell(list, outside.path());
    shell(
        &format!("cp -a {}/t t && cp -a t again", outside.path().display()),
        &mount.path,
    );
    assert_eq!(shell(list, &mount.path), expected);
    assert_eq!(
        shell(&list.replace("cd t", "cd again"), &mount.path),
        expected
    );
    shell(
        "cmp t/a/b/large again/a/b/large; ls -lR > /dev/null; du -s . > /dev/null",
        &mount.path,
    );
    shell(
        "tar cf t.tar --format=posix t; rm -r t again; tar xf t.tar",
        &mount.path,
    );
    assert_eq!(shell(list, &mount.path), expected);
    shell("rm -rf t t.tar; test -z \"$(ls -A)\"", &mount.path);
}

#[test]
fn a_program_edits_in_place() {
    let mount = mounted!();
    shell(
        "seq 1 20000 > n; sed -i 's/7/seven/' n; sort -o n n; grep -c seven n > count; test $(cat count) -gt 5000",
        &mount.path,
    );
    shell(
        "cat n n > twice; dd if=twice of=copy bs=64k conv=fsync 2> /dev/null; cmp twice copy; mv copy moved; wc -l < moved | grep -x 40000",
        &mount.path,
    );
}
