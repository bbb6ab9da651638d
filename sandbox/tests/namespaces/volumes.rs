//! What a container sees of the file system.

use std::path::Path;

use weft_sandbox::pod::{Mount, WEFT};

use crate::lab::Lab;
use crate::nowhere;

pub async fn volumes_anywhere(lab: &Lab) {
    let pod = lab.pod("pod", 0).await;
    let volume = lab.directory.path().join("volume");
    std::fs::create_dir_all(&volume).unwrap();
    std::fs::write(volume.join("file"), "content").unwrap();
    let nowhere = nowhere();
    let places = [
        nowhere.join("deep/er"),
        "/var/run/secrets/kubernetes.io/serviceaccount".into(),
        "/weft-test-at-the-top".into(),
        "/weft-test-at-the-top/inner".into(),
    ];
    let mounts: Vec<Mount> = places
        .iter()
        .map(|p| Mount {
            host_path: volume.clone(),
            container_path: p.clone(),
            read_only: p.starts_with("/var"),
        })
        .chain([Mount {
            host_path: volume.join("file"),
            container_path: nowhere.join("deep/single"),
            read_only: false,
        }])
        .collect();
    let script = format!(
        "set -e; cd {n}; cat deep/er/file deep/single; cat /var/run/secrets/kubernetes.io/serviceaccount/file; \
         cat /weft-test-at-the-top/inner/file; \
         ! touch /var/run/secrets/kubernetes.io/serviceaccount/new 2>/dev/null; \
         echo more >deep/er/new; test -e /etc/passwd; test -x {WEFT}; test -d /usr/bin",
        n = nowhere.display()
    );
    let (code, said) = lab.shell(&pod, |c| c.mounts = mounts, &script).await;
    assert_eq!((code, said.as_str()), (0, &*"content".repeat(4)));
    assert_eq!(std::fs::read_to_string(volume.join("new")).unwrap(), "more\n");
    for path in [
        nowhere.as_path(),
        Path::new("/weft-test-at-the-top"),
        Path::new("/.weft"),
    ] {
        assert!(!path.exists(), "{} is on the host now", path.display());
    }
    pod.destroy(&lab.fabric).await.unwrap();
}

pub async fn own_files(lab: &Lab) {
    let pod = lab.pod("pod-name", 0).await;
    let other = lab.pod("other", 0).await;
    let script = "set -e; hostname 2>/dev/null || cat /proc/sys/kernel/hostname; cat /etc/hostname; \
                  cat /etc/resolv.conf; grep pod-name /etc/hosts | wc -l; echo mine >/tmp/file; \
                  echo $HOSTNAME; pwd; ls -d /proc/[0-9]* | wc -l; ls /dev/null";
    let (code, said) = lab.shell(&pod, |_| {}, script).await;
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(code, 0, "{said}");
    assert_eq!(
        lines[..6],
        [
            "pod-name",
            "pod-name",
            "nameserver 10.96.0.10",
            "1",
            "pod-name",
            "/"
        ]
    );
    // The pod's first process, the shell and what it runs; not the sandbox's.
    assert!(lines[6].trim().parse::<u32>().unwrap() <= 5, "{said}");
    let (code, _) = lab.shell(&other, |_| {}, "test ! -e /tmp/file").await;
    assert_eq!(code, 0);
    let (code, said) = lab.shell(&pod, |_| {}, "cat /tmp/file").await;
    assert_eq!((code, said.as_str()), (0, "mine\n"), "/tmp is the pod's");
    pod.destroy(&lab.fabric).await.unwrap();
    other.destroy(&lab.fabric).await.unwrap();
}
