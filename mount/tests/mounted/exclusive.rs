use crate::mounted;
use std::{
    fs::OpenOptions,
    sync::{Arc, Barrier},
    thread,
};

#[test]
fn fault_s12_one_of_many_creators_wins() {
    const THREADS: usize = 8;
    let mount = mounted!();
    for round in 0..20 {
        let path = mount.at(&format!("lock-{round}"));
        let start = Arc::new(Barrier::new(THREADS));
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                let (path, start) = (path.clone(), start.clone());
                thread::spawn(move || {
                    start.wait();
                    match OpenOptions::new().write(true).create_new(true).open(path) {
                        Ok(_) => 1,
                        Err(error) => {
                            assert_eq!(error.raw_os_error(), Some(libc::EEXIST));
                            0
                        }
                    }
                })
            })
            .collect();
        assert_eq!(
            threads
                .into_iter()
                .map(|t| t.join().unwrap())
                .sum::<usize>(),
            1
        );
    }
}
