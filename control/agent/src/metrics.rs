// SPDX-License-Identifier: Apache-2.0
//! Counters for Prometheus, and what `/readyz` says.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::core::Source;

type Labels<const N: usize> = [(&'static str, String); N];

/// What happens, in numbers.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    events: Family<Labels<2>, Counter>,
    objects: Family<Labels<1>, Gauge>,
    connected: Family<Labels<1>, Gauge>,
    api_errors: Family<Labels<2>, Counter>,
    daemon_errors: Family<Labels<1>, Counter>,
    daemon_connected: Gauge,
    commits: Family<Labels<1>, Counter>,
    commit_seconds: Histogram,
    refused: Gauge<i64, AtomicI64>,
    synced: std::sync::Arc<Synced>,
    ready: AtomicBool,
}

/// When the daemon last had all that the cluster says.
#[derive(Debug, Default)]
struct Synced(Mutex<Option<Instant>>);

impl Synced {
    fn age(&self) -> Option<Duration> {
        let at = self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        at.map(|at| at.elapsed())
    }
}

#[derive(Debug)]
struct SyncAge(std::sync::Arc<Synced>);

impl Collector for SyncAge {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(age) = self.0.age() else {
            return Ok(());
        };
        let gauge = ConstGauge::new(age.as_secs_f64());
        let help = "Time since the daemon was last known to have all that the cluster says";
        let metric = encoder.encode_descriptor(
            "podswitch_agent_sync_age",
            help,
            Some(&Unit::Seconds),
            gauge.metric_type(),
        )?;
        gauge.encode(metric)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let synced = std::sync::Arc::<Synced>::default();
        let mut metrics = Metrics {
            registry: Registry::default(),
            events: Family::default(),
            objects: Family::default(),
            connected: Family::default(),
            api_errors: Family::default(),
            daemon_errors: Family::default(),
            daemon_connected: Gauge::default(),
            commits: Family::default(),
            commit_seconds: Histogram::new(exponential_buckets(0.000_5, 2.0, 16)),
            refused: Gauge::default(),
            synced: synced.clone(),
            ready: AtomicBool::new(false),
        };
        let r = metrics.registry.sub_registry_with_prefix("podswitch_agent");
        r.register(
            "events",
            "What the API told, by kind and type",
            metrics.events.clone(),
        );
        r.register(
            "objects",
            "Objects of the API that are known, by kind",
            metrics.objects.clone(),
        );
        r.register(
            "api_connected",
            "Whether a kind is being read, 1 or 0",
            metrics.connected.clone(),
        );
        r.register(
            "api_errors",
            "Errors of the API, by kind and HTTP code, 0 for none",
            metrics.api_errors.clone(),
        );
        r.register(
            "daemon_errors",
            "Errors of podswitchd, by name",
            metrics.daemon_errors.clone(),
        );
        r.register(
            "daemon_connected",
            "Whether podswitchd answers, 1 or 0",
            metrics.daemon_connected.clone(),
        );
        r.register(
            "commits",
            "Changes that podswitchd took, by method",
            metrics.commits.clone(),
        );
        r.register_with_unit(
            "commit",
            "Time that podswitchd took for one",
            Unit::Seconds,
            metrics.commit_seconds.clone(),
        );
        r.register(
            "refused_objects",
            "Objects that podswitchd refuses",
            metrics.refused.clone(),
        );
        metrics
            .registry
            .register_collector(Box::new(SyncAge(synced)));
        metrics
    }
}

fn kind(source: Source) -> (&'static str, String) {
    ("kind", source.kind().to_owned())
}

impl Metrics {
    /// The API told something of a kind.
    pub fn event(&self, source: Source, what: &str) {
        let labels = [kind(source), ("type", what.to_owned())];
        self.events.get_or_create(&labels).inc();
    }

    /// So many objects of a kind are known.
    pub fn objects(&self, source: Source, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.objects.get_or_create(&[kind(source)]).set(count);
    }

    /// A kind is being read, or not.
    pub fn connected(&self, source: Source, connected: bool) {
        self.connected
            .get_or_create(&[kind(source)])
            .set(connected.into());
    }

    /// The API answered with an error; 0 is none of HTTP's.
    pub fn api_error(&self, source: Source, code: u16) {
        let labels = [kind(source), ("code", code.to_string())];
        self.api_errors.get_or_create(&labels).inc();
    }

    /// podswitchd answers, or not.
    pub fn daemon(&self, connected: bool) {
        self.daemon_connected.set(connected.into());
    }

    /// podswitchd answered with an error.
    pub fn daemon_error(&self, name: &str) {
        self.daemon_errors
            .get_or_create(&[("code", name.to_owned())])
            .inc();
    }

    /// podswitchd took changes.
    pub fn commit(&self, method: &str, took: Duration) {
        self.commits
            .get_or_create(&[("method", method.to_owned())])
            .inc();
        self.commit_seconds.observe(took.as_secs_f64());
    }

    /// podswitchd has all that can be read of the cluster, and if so all there is; so many objects it refuses.
    pub fn synced(&self, refused: usize, whole: bool) {
        let now = Some(Instant::now());
        *self
            .synced
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = now;
        self.refused.set(i64::try_from(refused).unwrap_or(i64::MAX));
        self.ready.fetch_or(whole, Ordering::AcqRel);
    }

    /// Whether podswitchd has once had all that the cluster says.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// All of it, in the text format of OpenMetrics.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // A String takes everything.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_has_a_name() {
        let metrics = Metrics::default();
        metrics.event(Source::Pod, "apply");
        metrics.api_error(Source::Node, 410);
        metrics.daemon(true);
        metrics.daemon_error("busy");
        metrics.commit("apply", Duration::from_millis(2));
        assert!(!metrics.text().contains("sync_age"));
        metrics.synced(3, false);
        assert!(!metrics.is_ready());
        metrics.synced(3, true);
        assert!(metrics.is_ready());
        let text = metrics.text();
        for line in [
            "podswitch_agent_events_total{kind=\"Pod\",type=\"apply\"} 1",
            "podswitch_agent_api_errors_total{kind=\"Node\",code=\"410\"} 1",
            "podswitch_agent_daemon_connected 1",
            "podswitch_agent_daemon_errors_total{code=\"busy\"} 1",
            "podswitch_agent_commits_total{method=\"apply\"} 1",
            "podswitch_agent_commit_seconds_count 1",
            "podswitch_agent_refused_objects 3",
            "podswitch_agent_sync_age_seconds ",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
    }
}
