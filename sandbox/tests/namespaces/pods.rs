//! Life and death of pods and containers.

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use nix::sys::signal::Signal;
use weft_sandbox::enter;
use weft_sandbox::pod::{Mount, WEFT};

use crate::lab::{LONG, LOST, Lab, ask, at, wait_for};

pub async fn refusals_name_the_reason(lab: &Lab) {
    let pod = lab.pod("pod", 0).await;
    let mut command = lab.command(&pod, &["no-such-program"]);
    let refused = pod.start(command.clone()).await.unwrap_err().to_string();
    assert!(
        refused.contains("container main of pod test/pod") && refused.contains("no-such-program"),
        "{refused}"
    );
    command.argv = vec!["/bin/sh".into()];
    command.mounts = vec![Mount {
        host_path: "/no/volume".into(),
        container_path: "/x".into(),
        read_only: true,
    }];
    let refused = pod.start(command.clone()).await.unwrap_err().to_string();
    assert!(refused.contains("/no/volume"), "{refused}");
    command.mounts.clear();
    command.working_dir = Some("/no/directory".into());
    let refused = pod.start(command.clone()).await.unwrap_err().to_string();
    assert!(refused.contains("/no/directory"), "{refused}");
    command.working_dir = None;
    command.add_capabilities = vec!["MAGIC".into()];
    assert!(
        pod.start(command)
            .await
            .unwrap_err()
            .to_string()
            .contains("MAGIC")
    );
    assert_eq!(lab.shell(&pod, |_| {}, "exit 42").await.0, 42);
    pod.destroy(&lab.fabric).await.unwrap();
}

pub async fn rights(lab: &Lab) {
    let pod = lab.pod("pod", 0).await;
    let many = enter::inside().unwrap().many_ids;
    let show =
        "id -u; id -g; grep -E '^(CapEff|NoNewPrivs)' /proc/self/status | cut -f2; ulimit -n; ulimit -Hn";
    let run = |uid, add: &[&str], drop: &[&str]| {
        let list = |names: &[&str]| names.iter().map(|n| n.to_string()).collect::<Vec<_>>();
        let (add, drop) = (list(add), list(drop));
        let pod = &pod;
        async move {
            let (code, said) = lab
                .shell(
                    pod,
                    |c| (c.uid, c.gid, c.add_capabilities, c.drop_capabilities) = (uid, uid, add, drop),
                    show,
                )
                .await;
            assert_eq!(code, 0, "{said}");
            let lines: Vec<String> = said.lines().map(Into::into).collect();
            assert_eq!(
                (lines[0].clone(), &lines[3], &lines[4]),
                (lines[1].clone(), &"1".into(), &lines[5])
            );
            (lines[0].clone(), u64::from_str_radix(&lines[2], 16).unwrap())
        }
    };
    let (net_admin, net_raw, sys_admin) = (1 << 12, 1 << 13, 1 << 21);
    let (user, caps) = run(0, &[], &[]).await;
    assert_eq!(
        (user.as_str(), caps & (net_admin | net_raw | sys_admin)),
        ("0", net_raw)
    );
    assert_eq!(run(0, &["NET_ADMIN"], &["ALL"]).await, ("0".into(), net_admin));
    assert_eq!(run(0, &[], &["ALL"]).await.1, 0);
    let proxy = if many { ("1337".into(), 0) } else { ("0".into(), 0) };
    assert_eq!(run(1337, &[], &["ALL"]).await, proxy);
    assert_eq!(run(1337, &["NET_ADMIN"], &["ALL"]).await, (proxy.0, net_admin));
    pod.destroy(&lab.fabric).await.unwrap();
}

pub async fn signals(lab: &Lab) {
    let (pod, mut serving) = lab.server("pod", 0).await;
    let client = lab.pod("client", 0).await;
    let to = at(&pod, true, 8080);

    // Stopped: connections are taken, nothing answers; then it goes on.
    serving.handle().stop_all();
    assert!(
        tokio::time::timeout(LONG, client.connect(to))
            .await
            .unwrap()
            .is_ok()
    );
    assert_eq!(ask(&client, to).await, None);
    serving.handle().continue_all();
    assert!(ask(&client, to).await.is_some());

    serving.signal(Signal::SIGTERM);
    let status = tokio::time::timeout(LONG, serving.wait()).await.unwrap().unwrap();
    assert_eq!(status.signal(), Some(Signal::SIGTERM as i32));
    serving.signal(Signal::SIGTERM);

    // What the command leaves running goes with it; other containers of the pod stay.
    let mut other = lab.run(&pod, &["sleep", "1000"]).await;
    let (code, child) = lab.shell(&pod, |_| {}, "sleep 1000 & echo $!").await;
    assert_eq!(code, 0);
    let child = child.trim().to_owned();
    wait_for(async || {
        lab.shell(&pod, |_| {}, &format!("test ! -e /proc/{child}"))
            .await
            .0
            == 0
    })
    .await;
    assert!(
        tokio::time::timeout(Duration::from_millis(1), other.wait())
            .await
            .is_err()
    );
    other.handle().kill_all();
    let status = tokio::time::timeout(LONG, other.wait()).await.unwrap().unwrap();
    assert_eq!(status.signal(), Some(Signal::SIGKILL as i32));
    pod.destroy(&lab.fabric).await.unwrap();
    client.destroy(&lab.fabric).await.unwrap();
}

pub async fn a_killed_pod_is_gone(lab: &Lab) {
    let (pod, mut serving) = lab.server("pod", 0).await;
    let client = lab.pod("client", 0).await;
    assert!(tokio::time::timeout(LOST, pod.ended()).await.is_err());
    pod.kill();
    tokio::time::timeout(LONG, pod.ended()).await.unwrap();
    let status = tokio::time::timeout(LONG, serving.wait()).await.unwrap().unwrap();
    assert_eq!(status.signal(), Some(Signal::SIGKILL as i32));
    assert_eq!(ask(&client, at(&pod, true, 8080)).await, None);
    let refused = pod.start(lab.command(&pod, &[WEFT, "serve", "1"])).await;
    assert!(refused.is_err());
    pod.destroy(&lab.fabric).await.unwrap();
    client.destroy(&lab.fabric).await.unwrap();
    let links = std::fs::read_to_string("/proc/net/dev").unwrap();
    assert!(!links.contains(" pod") && !links.contains("\npod"), "{links}");
}

pub async fn many_at_once(lab: &Lab) {
    let names: Vec<String> = (0..20).map(|n| format!("pod{n}")).collect();
    let began = tokio::time::Instant::now();
    let mut servers = futures_util::future::join_all(names.iter().map(|n| lab.server(n, 3))).await;
    println!("20 pods, each answering, after {:?}", began.elapsed());
    let first = servers.pop().unwrap().0;
    for (pod, _) in &servers {
        assert!(ask(&first, at(pod, false, 8080)).await.is_some());
    }
    first.destroy(&lab.fabric).await.unwrap();
    for (pod, _) in servers {
        pod.destroy(&lab.fabric).await.unwrap();
    }
}
