// SPDX-License-Identifier: Apache-2.0
//! Puts the parts together: readers of the API on an async runtime, the keeper on a thread of its own.

use std::error::Error;
use std::sync::Arc;

use futures::future::{Either, select};
use kube::Client;
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{Sender, channel};

use crate::config::Config;
use crate::core::Input;
use crate::keeper::Keeper;
use crate::metrics::Metrics;
use crate::slim::{
    ClusterNetworkPolicy, EndpointSlice, Namespace, NetworkPolicy, Node, Pod, Service,
};
use crate::watch::watch;
use crate::{events, http, kubernetes};

/// Inputs that wait for the keeper: a reader that is faster waits.
const INPUTS: usize = 4096;
/// Complaints that wait to be written as events.
const COMPLAINTS: usize = 256;

/// Runs until SIGTERM or SIGINT. What the daemon has then stays.
///
/// # Errors
/// What keeps the agent from starting, naming the key of the configuration at fault.
pub fn run(config: Config, node: String) -> Result<(), Box<dyn Error>> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    runtime.block_on(async {
        let client = kubernetes::client(&config.kubernetes).await?;
        let listener = TcpListener::bind(config.listen)
            .await
            .map_err(|e| format!("listen = {}: {e}", config.listen))?;
        let metrics = Arc::new(Metrics::default());
        tokio::spawn(http::serve(listener, metrics.clone()));
        let (complaints, written) = channel(COMPLAINTS);
        tokio::spawn(events::write(client.clone(), node.clone(), written));
        let (inputs, heard) = channel(INPUTS);
        let keeper = Keeper::new(config, node, metrics.clone(), complaints);
        let thread = std::thread::Builder::new().name("keeper".to_owned());
        let keeper = thread.spawn(move || keeper.run(heard, &handle))?;
        watch_all(&client, &inputs, &metrics);
        ended(&inputs).await?;
        tracing::info!("ends; podswitchd keeps what it has");
        drop(keeper);
        Ok(())
    })
}

/// Waits until somebody ends the agent, or the keeper has ended, which it never does by itself.
async fn ended(inputs: &Sender<Input>) -> Result<(), Box<dyn Error>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let asked = select(Box::pin(terminate.recv()), Box::pin(interrupt.recv()));
    match select(asked, Box::pin(inputs.closed())).await {
        Either::Left(_) => Ok(()),
        Either::Right(_) => Err("the thread that keeps podswitchd has ended; see the log".into()),
    }
}

fn watch_all(client: &Client, inputs: &Sender<Input>, metrics: &Arc<Metrics>) {
    macro_rules! watch_kinds {
        ($($kind:ty),+) => {$(
            tokio::spawn(watch::<$kind>(client.clone(), inputs.clone(), metrics.clone()));
        )+};
    }
    watch_kinds!(
        Node,
        Namespace,
        Pod,
        Service,
        EndpointSlice,
        NetworkPolicy,
        ClusterNetworkPolicy
    );
}
