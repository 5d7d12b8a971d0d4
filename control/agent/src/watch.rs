// SPDX-License-Identifier: Apache-2.0
//! Reads one kind of the API: lists it, watches it, and begins again whenever that breaks.

use std::hash::{BuildHasher, RandomState};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use tokio::sync::mpsc::Sender;

use crate::core::{Away, Input, Source};
use crate::metrics::Metrics;
use crate::slim::{Slim, identity};

/// Objects of a page of a list.
const PAGE: u32 = 500;
/// Shortest and longest pause after an error.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long a server must have said that it does not know a kind before its objects count as gone: one that starts may say so, too.
const ABSENT_AFTER: Duration = Duration::from_secs(15);

/// A pause that doubles with each error.
#[derive(Debug)]
pub(crate) struct Backoff(Duration);

impl Backoff {
    pub(crate) fn new() -> Backoff {
        Backoff(FIRST_PAUSE)
    }

    pub(crate) fn reset(&mut self) {
        self.0 = FIRST_PAUSE;
    }

    /// The next pause: between half and all of it, so that not all agents of a cluster come back at once.
    pub(crate) fn pause(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(LONGEST_PAUSE);
        let chance = RandomState::new().hash_one(0) % 1024;
        pause / 2 + pause.mul_f64(chance as f64 / 2048.0)
    }
}

/// What an error asks for.
enum Next {
    /// The watcher goes on by itself.
    GoOn,
    /// A new list is needed.
    Restart,
    /// The server does not stream lists: ask for pages, at once.
    Pages,
}

/// Reads a kind for as long as somebody listens.
pub async fn watch<K: Slim>(client: Client, inputs: Sender<Input>, metrics: Arc<Metrics>) {
    let mut reader = Reader {
        source: K::SOURCE,
        inputs,
        metrics,
        backoff: Backoff::new(),
        streaming: true,
        away: false,
        absent: None,
        said: None,
    };
    let api: Api<K> = Api::all(client.clone());
    while !reader.inputs.is_closed() {
        reader.read(&api, &client).await;
    }
}

struct Reader {
    source: Source,
    inputs: Sender<Input>,
    metrics: Arc<Metrics>,
    backoff: Backoff,
    /// Lists are asked for as streams; not once a server has refused that.
    streaming: bool,
    /// The kind is none of the agent's business, and the core knows.
    away: bool,
    /// Since when the server does not know the kind.
    absent: Option<Instant>,
    /// The code of the error that was last said in the log.
    said: Option<u16>,
}

impl Reader {
    /// Reads from a new list on, until another one is needed.
    async fn read<K: Slim>(&mut self, api: &Api<K>, client: &Client) {
        let config = match self.streaming {
            true => watcher::Config::default().streaming_lists(),
            false => watcher::Config::default().page_size(PAGE),
        };
        let mut stream = pin!(watcher(api.clone(), config));
        let mut listing = true;
        while let Some(event) = stream.next().await {
            match event {
                Ok(event) => {
                    match event {
                        Event::Init => listing = true,
                        Event::InitDone => listing = false,
                        _ => {}
                    }
                    if !self.event(event).await {
                        return;
                    }
                }
                Err(error) => match self.error(&error, listing, client).await {
                    Next::GoOn => {}
                    Next::Restart => return,
                    Next::Pages => {
                        tracing::debug!(kind = self.source.kind(), %error, "lists are read in pages");
                        self.streaming = false;
                        return;
                    }
                },
            }
        }
    }

    /// Tells the core; false when nobody listens any more.
    async fn event<K: Slim>(&mut self, event: Event<K>) -> bool {
        let source = self.source;
        let (what, input) = match event {
            Event::Init => ("init", Input::Begin(source)),
            Event::InitApply(object) => ("list", Input::Item(source, object.seen())),
            Event::InitDone => ("listed", Input::End(source)),
            Event::Apply(object) => ("apply", Input::Apply(source, object.seen())),
            Event::Delete(object) => ("delete", Input::Delete(source, identity(object.meta()))),
        };
        // That a list is asked for does not say that it is given.
        if what != "init" {
            self.works();
        }
        self.metrics.event(source, what);
        self.inputs.send(input).await.is_ok()
    }

    fn works(&mut self) {
        self.backoff.reset();
        (self.away, self.absent) = (false, None);
        self.metrics.connected(self.source, true);
        if self.said.take().is_some() {
            tracing::info!(kind = self.source.kind(), "is read again");
        }
    }

    async fn error(&mut self, error: &watcher::Error, listing: bool, client: &Client) -> Next {
        let code = code(error);
        if self.streaming && listing && refuses_streams(error) {
            return Next::Pages;
        }
        self.metrics.connected(self.source, false);
        self.metrics.api_error(self.source, code);
        if self.said.replace(code) != Some(code) {
            self.say(error, code);
        }
        let asked = retry_after(error);
        match code {
            403 => self.go_away(Away::Forbidden).await,
            404 if self.source == Source::ClusterNetworkPolicy => self.is_absent(client).await,
            _ => {}
        }
        let pause = self.backoff.pause().max(asked.unwrap_or_default());
        tokio::time::sleep(pause).await;
        match code {
            403 | 404 | 410 => Next::Restart,
            _ => Next::GoOn,
        }
    }

    fn say(&self, error: &watcher::Error, code: u16) {
        let kind = self.source.kind();
        let error = chain(error);
        match code {
            403 => tracing::error!(
                kind,
                error,
                "may not be read: podswitchd keeps what it has of it; correct the agent's ClusterRole"
            ),
            404 if self.source == Source::ClusterNetworkPolicy => tracing::info!(
                kind,
                "is not known to the API server; looked for again from time to time"
            ),
            410 => tracing::info!(
                kind,
                "is listed anew: the server has forgotten what was before"
            ),
            _ => tracing::warn!(kind, code, error, "cannot be read; the last state holds"),
        }
    }

    async fn go_away(&mut self, why: Away) {
        if !std::mem::replace(&mut self.away, true) {
            // Nobody listens only when the agent ends.
            let _ = self.inputs.send(Input::Away(self.source, why)).await;
        }
    }

    /// What the server does not know for long enough is not there, if it says itself what it knows: something between here and the server
    /// may know nothing at all.
    async fn is_absent(&mut self, client: &Client) {
        let since = *self.absent.get_or_insert_with(Instant::now);
        if since.elapsed() < ABSENT_AFTER {
            return self.go_away(Away::Unknown).await;
        }
        if self.away && !is_served(client, self.source).await {
            for input in [Input::Begin(self.source), Input::End(self.source)] {
                let _ = self.inputs.send(input).await;
            }
            self.away = false;
        }
    }
}

/// Whether a server has a kind of another group than the core's, as far as it says.
async fn is_served(client: &Client, source: Source) -> bool {
    let version = source.api_version();
    let Ok(groups) = client.list_api_groups().await else {
        return true;
    };
    let versions = groups.groups.iter().flat_map(|group| &group.versions);
    if !versions.into_iter().any(|v| v.group_version == version) {
        return false;
    }
    let Ok(list) = client.list_api_group_resources(version).await else {
        return true;
    };
    list.resources.iter().any(|r| r.kind == source.kind())
}

/// An error with what caused it, as far as it does not say so itself.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

/// The status that the server answered with.
fn status(error: &watcher::Error) -> Option<&kube::core::Status> {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => Some(status),
        _ => None,
    }
}

/// HTTP's code; 0 where there was no answer.
fn code(error: &watcher::Error) -> u16 {
    status(error).map_or(0, |s| s.code)
}

/// Servers without streamed lists answer with 400 or 422, those whose etcd cannot with an event of code 500 (Kubernetes API concepts,
/// streaming lists).
fn refuses_streams(error: &watcher::Error) -> bool {
    matches!(code(error), 400 | 422 | 500)
}

/// The pause that the server asks for.
fn retry_after(error: &watcher::Error) -> Option<Duration> {
    let details = status(error)?.details.as_ref()?;
    let seconds = u64::from(details.retry_after_seconds);
    (seconds > 0).then(|| Duration::from_secs(seconds).min(LONGEST_PAUSE))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: serde_json::Value) -> watcher::Error {
        watcher::Error::WatchError(serde_json::from_value(status).unwrap())
    }

    #[test]
    fn what_an_error_asks_for() {
        let refused = serde_json::json!({"message": "the required storage feature RequestWatchProgress is disabled", "code": 500});
        assert!(refuses_streams(&answer(refused)));
        let busy = serde_json::json!({"code": 429, "details": {"retryAfterSeconds": 3}});
        assert_eq!(retry_after(&answer(busy)), Some(Duration::from_secs(3)));
        let long = serde_json::json!({"code": 429, "details": {"retryAfterSeconds": 3000}});
        assert_eq!(retry_after(&answer(long)), Some(LONGEST_PAUSE));
        let error = watcher::Error::NoResourceVersion;
        assert_eq!((code(&error), retry_after(&error)), (0, None));
    }

    #[test]
    fn pauses_grow_and_have_an_end() {
        let mut backoff = Backoff::new();
        let pauses: Vec<Duration> = (0..20).map(|_| backoff.pause()).collect();
        assert!(pauses[0] >= FIRST_PAUSE / 2 && pauses[0] <= FIRST_PAUSE);
        assert!(pauses[19] >= LONGEST_PAUSE / 2 && pauses[19] <= LONGEST_PAUSE);
        backoff.reset();
        assert!(backoff.pause() <= FIRST_PAUSE);
    }
}
