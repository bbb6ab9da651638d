//! Jobs: pods that end.
//!
//! In: a Job and its pods. Out: pods until enough have succeeded or too many have failed, and the Job's status. Never: a pod
//! more than `parallelism` at once; a pod made for a Job that is over.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use time::OffsetDateTime;

use super::pods::{self, has_ended};
use super::queue::{self, Key, Outcome};
use crate::api::verbs::Deletion;
use crate::api::{Api, Event, Store, object};

const KIND: &str = "jobs.batch";
const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// Pause after the first pod that failed; it doubles with every other.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Keeps Jobs true, for ever.
pub async fn run(api: Arc<Api>) {
    queue::run(api, KIND, concerns, reconcile).await;
}

fn concerns(store: &Store, event: &Event) -> Vec<Key> {
    match &*event.kind {
        KIND => vec![queue::key_of(&event.object)],
        "pods" => queue::owner(store, KIND, &event.object).into_iter().collect(),
        _ => Vec::new(),
    }
}

/// What a Job's pods have come to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    active: usize,
    ready: usize,
    terminating: usize,
    succeeded: usize,
    failed: usize,
    /// Restarts of containers in pods that go on.
    restarts: i64,
    /// Indexes that have succeeded, and those that somebody works on.
    done: BTreeSet<i64>,
    taken: BTreeSet<i64>,
}

fn index_of(pod: &Value) -> Option<i64> {
    pod.pointer("/metadata/annotations")?[INDEX]
        .as_str()?
        .parse()
        .ok()
}

fn tally(pods: &[Arc<Value>]) -> Tally {
    let mut tally = Tally::default();
    for pod in pods {
        match object::string(pod, "/status/phase") {
            Some("Succeeded") => {
                tally.succeeded += 1;
                tally.done.extend(index_of(pod));
            }
            Some("Failed") => tally.failed += 1,
            _ if object::is_terminating(pod) => tally.terminating += 1,
            _ => {
                tally.active += 1;
                tally.ready += usize::from(object::is_true(pod, "Ready"));
                tally.taken.extend(index_of(pod));
                let statuses = ["/status/containerStatuses", "/status/initContainerStatuses"];
                let restarts = statuses.iter().flat_map(|l| object::list(pod, l));
                tally.restarts += restarts
                    .map(|s| s["restartCount"].as_i64().unwrap_or(0))
                    .sum::<i64>();
            }
        }
    }
    tally
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// So many pods more, or with these indexes.
    Create(usize, Vec<i64>),
    /// So many pods fewer.
    Remove(usize),
    Complete,
    Fail(&'static str, &'static str),
    Nothing,
}

fn next(job: &Value, tally: &Tally, now: OffsetDateTime) -> Next {
    let number = |field: &str| object::number(job, &format!("/spec/{field}"));
    let completions = number("completions");
    let parallelism = usize::try_from(number("parallelism").unwrap_or(1)).unwrap_or_default();
    let limit = number("backoffLimit").unwrap_or(6);
    let indexed = object::string(job, "/spec/completionMode") == Some("Indexed");
    let succeeded = if indexed {
        tally.done.len()
    } else {
        tally.succeeded
    };
    let wanted = completions.map(|c| usize::try_from(c).unwrap_or_default());
    let failures = i64::try_from(tally.failed)
        .unwrap_or(i64::MAX)
        .saturating_add(tally.restarts);
    let over = match wanted {
        Some(wanted) => succeeded >= wanted,
        // Without a number, one that succeeds means that the work is done.
        None => succeeded > 0 && tally.active == 0,
    };
    if over {
        return Next::Complete;
    }
    if failures > limit {
        return Next::Fail(
            "BackoffLimitExceeded",
            "Job has reached the specified backoff limit",
        );
    }
    let started = object::string(job, "/status/startTime").and_then(object::parse_time);
    if let (Some(most), Some(started)) = (number("activeDeadlineSeconds"), started)
        && (now - started).whole_seconds() >= most
    {
        return Next::Fail(
            "DeadlineExceeded",
            "Job was active longer than specified deadline",
        );
    }
    if job.pointer("/spec/suspend") == Some(&Value::Bool(true)) {
        return if tally.active > 0 {
            Next::Remove(tally.active)
        } else {
            Next::Nothing
        };
    }
    let room = match wanted {
        Some(wanted) => parallelism.min(wanted - succeeded),
        None if succeeded > 0 => tally.active,
        None => parallelism,
    };
    if tally.active > room {
        return Next::Remove(tally.active - room);
    }
    let more = room - tally.active;
    if more == 0 {
        return Next::Nothing;
    }
    if !indexed {
        return Next::Create(more, Vec::new());
    }
    let free = (0..completions.unwrap_or(0)).filter(|i| !tally.done.contains(i) && !tally.taken.contains(i));
    let free: Vec<i64> = free.take(more).collect();
    if free.is_empty() {
        Next::Nothing
    } else {
        Next::Create(free.len(), free)
    }
}

async fn reconcile(api: Arc<Api>, (namespace, name): Key) -> Outcome {
    let Some(job) = api.store.get(KIND, &namespace, &name) else {
        return Ok(None);
    };
    if object::is_terminating(&job) {
        return Ok(None);
    }
    if object::is_true(&job, "Complete") || object::is_true(&job, "Failed") {
        return forget(&api, &job);
    }
    let now = OffsetDateTime::now_utc();
    let mut pods = pods::owned(&api, &job);
    let mut counted = tally(&pods);
    let step = next(&job, &counted, now);
    match &step {
        Next::Create(count, indexes) => {
            if let Some(wait) = back_off(&pods, now) {
                status(&api, &job, &counted, &step);
                return Ok(Some(wait));
            }
            for at in 0..*count {
                pods::create(&api, &job, pod_of(&job, indexes.get(at).copied())).await?;
            }
        }
        Next::Remove(count) => {
            let active = pods
                .iter()
                .filter(|p| !has_ended(p) && !object::is_terminating(p));
            for pod in active.take(*count) {
                pods::delete(&api, &job, pod)?;
            }
        }
        Next::Fail(reason, message) => {
            for pod in pods.iter().filter(|p| !has_ended(p)) {
                pods::delete(&api, &job, pod)?;
            }
            api.record(&job, true, reason, message);
        }
        Next::Complete => {
            for pod in pods.iter().filter(|p| !has_ended(p)) {
                pods::delete(&api, &job, pod)?;
            }
            api.record(&job, false, "Completed", "Job completed");
        }
        Next::Nothing => {}
    }
    pods = pods::owned(&api, &job);
    counted = tally(&pods);
    status(&api, &job, &counted, &step);
    let deadline = object::number(&job, "/spec/activeDeadlineSeconds")
        .map(|s| Duration::from_secs(s.unsigned_abs() + 1));
    Ok(deadline)
}

/// How long to wait after the last pod that failed.
fn back_off(pods: &[Arc<Value>], now: OffsetDateTime) -> Option<Duration> {
    let ended = |pod: &Value| {
        let containers = object::list(pod, "/status/containerStatuses").iter();
        containers
            .filter_map(|c| object::parse_time(object::string(c, "/state/terminated/finishedAt")?))
            .max()
    };
    let failed: Vec<&Arc<Value>> = pods
        .iter()
        .filter(|p| object::string(p, "/status/phase") == Some("Failed"))
        .collect();
    let last = failed.iter().filter_map(|p| ended(p)).max()?;
    let times = u32::try_from(failed.len()).unwrap_or(u32::MAX).clamp(1, 10) - 1;
    let pause = (BACK_OFF.0 * 2_u32.pow(times)).min(BACK_OFF.1);
    let since = Duration::from_secs((now - last).whole_seconds().max(0).unsigned_abs());
    pause.checked_sub(since).filter(|left| !left.is_zero())
}

/// A pod of the Job, with an index where its completions have one.
pub(crate) fn pod_of(job: &Value, index: Option<i64>) -> Value {
    let name = object::name(job);
    let Some(index) = index else {
        return pods::made_of(job, &format!("{name}-"));
    };
    let mut pod = pods::made_of(job, &format!("{name}-{index}-"));
    let text = index.to_string();
    object::member(&mut pod["metadata"], "annotations").insert(INDEX.into(), text.clone().into());
    object::member(&mut pod["metadata"], "labels").insert(INDEX.into(), text.clone().into());
    if pod.pointer("/spec/hostname").is_none() {
        pod["spec"]["hostname"] = format!("{name}-{index}").into();
    }
    for list in ["initContainers", "containers"] {
        for container in pod["spec"]
            .get_mut(list)
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            if !container["env"].is_array() {
                container["env"] = json!([]);
            }
            if let Some(env) = container["env"].as_array_mut() {
                env.push(json!({"name": "JOB_COMPLETION_INDEX", "value": text}));
            }
        }
    }
    pod
}

/// A Job that is over goes after `ttlSecondsAfterFinished`.
fn forget(api: &Api, job: &Value) -> Outcome {
    let Some(keep) = object::number(job, "/spec/ttlSecondsAfterFinished") else {
        return Ok(None);
    };
    let ended = ["Complete", "Failed"]
        .iter()
        .filter_map(|c| object::condition(job, c)?["lastTransitionTime"].as_str())
        .find_map(object::parse_time);
    let now = OffsetDateTime::now_utc();
    let left = keep - ended.map_or(0, |at| (now - at).whole_seconds());
    if left > 0 {
        return Ok(Some(Duration::from_secs(left.unsigned_abs())));
    }
    if let Some(kind) = api.kinds.by_key(KIND) {
        let how = Deletion {
            uid: Some(object::uid(job).to_owned()),
            ..Deletion::default()
        };
        match api.delete(&kind, object::namespace(job), object::name(job), &how) {
            Err(e) if !e.is_not_found() => return Err(e),
            _ => {}
        }
    }
    Ok(None)
}

fn status(api: &Api, job: &Value, tally: &Tally, step: &Next) {
    let written = api.set_status(KIND, object::namespace(job), object::name(job), |o| {
        if object::uid(o) != object::uid(job) {
            return;
        }
        let now = object::now();
        let suspended = o.pointer("/spec/suspend") == Some(&Value::Bool(true));
        let status = object::member(o, "status");
        if !suspended {
            status.entry("startTime").or_insert_with(|| now.clone().into());
        }
        for (field, count) in [
            ("active", tally.active),
            ("ready", tally.ready),
            ("terminating", tally.terminating),
            ("succeeded", tally.succeeded),
            ("failed", tally.failed),
        ] {
            // As the API writes them: what never was is not there.
            if count > 0 || matches!(field, "ready" | "terminating") || status.contains_key(field) {
                status.insert(field.into(), count.into());
            }
        }
        if !tally.done.is_empty() {
            status.insert("completedIndexes".into(), ranges(&tally.done).into());
        }
        let mut conditions = Vec::new();
        let mut so = |kind: &str, status: &str, reason: &str, message: &str| {
            let old = object::condition(job, kind).filter(|c| c["status"] == status);
            let since = old.map_or_else(|| now.clone().into(), |c| c["lastTransitionTime"].clone());
            conditions.push(
                json!({"type": kind, "status": status, "reason": reason, "message": message,
                "lastProbeTime": since, "lastTransitionTime": since}),
            );
        };
        if suspended {
            so("Suspended", "True", "JobSuspended", "Job suspended");
        } else if object::condition(job, "Suspended").is_some() {
            so("Suspended", "False", "JobResumed", "Job resumed");
        }
        match step {
            Next::Complete => {
                let message = "Reached expected number of succeeded pods";
                so("SuccessCriteriaMet", "True", "CompletionsReached", message);
                so("Complete", "True", "CompletionsReached", message);
                status.insert("completionTime".into(), now.clone().into());
            }
            Next::Fail(reason, message) => {
                so("FailureTarget", "True", reason, message);
                so("Failed", "True", reason, message);
            }
            _ => {}
        }
        if !conditions.is_empty() {
            status.insert("conditions".into(), conditions.into());
        }
    });
    if let Err(e) = written {
        tracing::debug!("status of Job {}: {e}", object::name(job));
    }
}

/// `0-2,5`.
fn ranges(indexes: &BTreeSet<i64>) -> String {
    let mut parts: Vec<(i64, i64)> = Vec::new();
    for index in indexes {
        match parts.last_mut() {
            Some((_, end)) if *end + 1 == *index => *end = *index,
            _ => parts.push((*index, *index)),
        }
    }
    let text: Vec<String> = parts
        .iter()
        .map(|(from, to)| {
            if from == to {
                from.to_string()
            } else {
                format!("{from}-{to}")
            }
        })
        .collect();
    text.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(spec: Value) -> Value {
        json!({"metadata": {"name": "j", "uid": "u"}, "spec": spec, "status": {"startTime": "2024-01-01T00:00:00Z"}})
    }

    #[test]
    fn steps() {
        let now = object::parse_time("2024-01-01T00:00:10Z").unwrap();
        let counted = |active, succeeded, failed| Tally {
            active,
            succeeded,
            failed,
            ..Tally::default()
        };
        let three = json!({"completions": 3, "parallelism": 2, "backoffLimit": 1});
        for (spec, has, expected) in [
            (three.clone(), counted(0, 0, 0), Next::Create(2, vec![])),
            (three.clone(), counted(2, 0, 0), Next::Nothing),
            (three.clone(), counted(0, 2, 1), Next::Create(1, vec![])),
            (three.clone(), counted(2, 2, 0), Next::Remove(1)),
            (three.clone(), counted(0, 3, 1), Next::Complete),
            (
                three,
                counted(1, 0, 2),
                Next::Fail(
                    "BackoffLimitExceeded",
                    "Job has reached the specified backoff limit",
                ),
            ),
            (json!({"parallelism": 2}), counted(1, 1, 0), Next::Nothing),
            (json!({"parallelism": 2}), counted(0, 1, 0), Next::Complete),
            (
                json!({"completions": 1, "suspend": true}),
                counted(1, 0, 0),
                Next::Remove(1),
            ),
            (
                json!({"completions": 1, "activeDeadlineSeconds": 10}),
                counted(1, 0, 0),
                Next::Fail(
                    "DeadlineExceeded",
                    "Job was active longer than specified deadline",
                ),
            ),
        ] {
            assert_eq!(next(&job(spec.clone()), &has, now), expected, "{spec} {has:?}");
        }
        let mut has = counted(1, 1, 0);
        has.done.insert(1);
        has.taken.insert(0);
        let indexed = json!({"completions": 4, "parallelism": 3, "completionMode": "Indexed"});
        assert_eq!(next(&job(indexed), &has, now), Next::Create(2, vec![2, 3]));
        assert_eq!(ranges(&[0, 1, 2, 5].into()), "0-2,5");
    }

    #[test]
    fn an_indexed_pod_knows_its_index() {
        let job = job(json!({"template": {"spec": {"containers": [{"name": "a"}]}}}));
        let pod = pod_of(&job, Some(3));
        assert_eq!(pod["spec"]["hostname"], "j-3");
        assert_eq!(pod["spec"]["containers"][0]["env"][0]["value"], "3");
        assert_eq!(pod["metadata"]["generateName"], "j-3-");
    }
}
