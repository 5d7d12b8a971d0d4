// SPDX-License-Identifier: Apache-2.0
//! A client of the cluster's API.

use std::path::PathBuf;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::config::KubernetesConfig;

/// How long an answer may be silent. A watch ends after 290 seconds, and a server sends a bookmark about once a minute.
const SILENCE: Duration = Duration::from_secs(300);

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The kubeconfig cannot be read or used.
    #[error("{path}: {source}", path = path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: kube::config::KubeconfigError,
    },
    /// The agent does not run in a pod with a service account.
    #[error("{0}; run the agent in a pod with a service account, or give kubernetes.kubeconfig")]
    InCluster(#[from] kube::config::InClusterError),
    /// The URL is none.
    #[error("kubernetes.api_server = {url}: {message}; write one such as https://192.0.2.1:6443")]
    Url {
        /// The URL.
        url: String,
        /// What is wrong with it.
        message: String,
    },
    /// The credentials cannot be used.
    #[error("the API server's credentials cannot be used: {0}")]
    Client(#[from] kube::Error),
}

/// A client as the configuration says. Nothing is asked yet.
///
/// # Errors
/// [`ClientError`].
pub async fn client(config: &KubernetesConfig) -> Result<Client, ClientError> {
    let mut of = match &config.kubeconfig {
        Some(path) => {
            let failed = |source| ClientError::Kubeconfig {
                path: path.clone(),
                source,
            };
            let file = Kubeconfig::read_from(path).map_err(failed)?;
            let options = KubeConfigOptions::default();
            Config::from_custom_kubeconfig(file, &options)
                .await
                .map_err(failed)?
        }
        None => Config::incluster()?,
    };
    if let Some(url) = &config.api_server {
        of.cluster_url = url.parse().map_err(|e| ClientError::Url {
            url: url.clone(),
            message: format!("{e}"),
        })?;
    }
    // A server that says nothing for longer than a watch may be silent is not there any more.
    of.read_timeout = Some(SILENCE);
    of.reset_reader_on_write = true;
    // Errors are counted and waited for here, by kind.
    of.default_retry = false;
    Ok(Client::try_from(of)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client_of(config: &KubernetesConfig) -> Result<Client, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let runtime = runtime.unwrap();
        runtime.block_on(async { client(config).await.map_err(|e| e.to_string()) })
    }

    #[test]
    fn errors_name_file_and_url() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kubeconfig");
        let mut config = KubernetesConfig {
            kubeconfig: Some(path.clone()),
            api_server: Some("not a url".to_owned()),
        };
        let error = client_of(&config).err().unwrap();
        assert!(error.contains("kubeconfig"), "{error}");
        let text = serde_json::json!({"current-context": "a",
            "clusters": [{"name": "a", "cluster": {"server": "https://192.0.2.1:6443"}}],
            "users": [{"name": "a", "user": {"token": "t"}}],
            "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}]});
        std::fs::write(&path, text.to_string()).unwrap();
        let error = client_of(&config).err().unwrap();
        assert!(error.contains("api_server = not a url"), "{error}");
        config.api_server = Some("http://192.0.2.2:6443".to_owned());
        assert!(client_of(&config).is_ok());
        config.kubeconfig = None;
        let error = client_of(&config).err().unwrap();
        assert!(error.contains("kubernetes.kubeconfig"), "{error}");
    }
}
