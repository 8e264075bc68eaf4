//! A real browser: Debian's chromium, headless, driven by its DevTools protocol.

use std::{
    env, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, client::IntoClientRequest},
};

use crate::{
    api::Api,
    process::{Process, Start},
    wait::{PATIENCE, eventually},
};

/// Turns off everything but the page under test: nothing is fetched, reported or updated.
const ARGUMENTS: [&str; 10] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--remote-debugging-port=0",
];

/// A browser with one page. It ends when it is dropped.
pub struct Browser {
    line: WebSocketStream<TcpStream>,
    next: u64,
    /// The errors that the browser reported on the page.
    complaints: Vec<String>,
    _process: Process,
    _folder: TempDir,
}

/// The display settings of a page.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    /// The width in CSS pixels.
    pub width: u32,
    /// The colour scheme: `light` or `dark`.
    pub scheme: &'static str,
}

impl Browser {
    /// Starts it; `None` with a printed note if chromium is not installed.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn start() -> Option<Self> {
        let Some(program) = installed() else {
            println!("SKIPPED: chromium is not installed (scripts/setup browser)");
            return None;
        };
        let folder = tempfile::Builder::new().prefix("spoke-browser-").tempdir();
        let folder = folder.expect("a temporary folder can be made");
        let data = folder.path().join("data");
        let mut start = Start::with(&ARGUMENTS);
        start.arguments.push(format!("--user-data-dir={}", data.display()));
        start.arguments.push("about:blank".to_owned());
        start = start.variable("HOME", folder.path().display());
        let process = Process::start(&program, &start, &folder.path().join("browser.log"));
        let port: u16 = eventually("the browser to report its port", PATIENCE, async || {
            let text = fs::read_to_string(data.join("DevToolsActivePort")).unwrap_or_default();
            let port = text.lines().next().and_then(|port| port.parse().ok());
            port.ok_or(text)
        })
        .await;
        let url = eventually("the browser to have a page", PATIENCE, async || {
            let api = Api::new(SocketAddr::from(([127, 0, 0, 1], port)));
            let pages = api.get("/json/list").await.json();
            let all = pages.as_array().cloned().unwrap_or_default();
            let page = all.iter().find(|page| page["type"] == "page");
            let url = page.and_then(|page| page["webSocketDebuggerUrl"].as_str());
            url.map(str::to_owned).ok_or(pages)
        })
        .await;
        let stream =
            TcpStream::connect(("127.0.0.1", port)).await.expect("the browser accepts connections");
        let request = url.into_client_request().expect("the browser gives a URL");
        let (line, _) = client_async(request, stream).await.expect("the browser speaks DevTools");
        let mut browser =
            Self { line, next: 0, complaints: Vec::new(), _process: process, _folder: folder };
        for domain in ["Page", "Runtime", "Log"] {
            browser.call(&format!("{domain}.enable"), json!({})).await;
        }
        Some(browser)
    }

    /// Calls a method of the protocol.
    ///
    /// # Panics
    /// If it is refused or not answered in time; so do all methods below.
    pub async fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.next += 1;
        let id = self.next;
        let text = json!({ "id": id, "method": method, "params": parameters }).to_string();
        self.line.send(Message::Text(text.into())).await.expect("the browser reads requests");
        loop {
            let received = tokio::time::timeout(PATIENCE, self.line.next()).await;
            let received = received.unwrap_or_else(|_| panic!("{method} is not answered"));
            let Some(Ok(Message::Text(text))) = received else {
                panic!("the browser ended: {received:?}")
            };
            let message: Value = serde_json::from_str(&text).expect("DevTools speaks JSON");
            if message["id"] == id {
                assert!(message["error"].is_null(), "{method} is refused: {message}");
                return message["result"].clone();
            }
            self.record_complaint(&message);
        }
    }

    fn record_complaint(&mut self, event: &Value) {
        let complaint = match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => &event["params"]["exceptionDetails"],
            Some("Log.entryAdded") if event["params"]["entry"]["level"] == "error" => {
                &event["params"]["entry"]
            }
            _ => return,
        };
        self.complaints.push(complaint.to_string());
    }

    /// Opens an address and waits until it is loaded.
    pub async fn open(&mut self, url: &str) {
        let opened = self.call("Page.navigate", json!({ "url": url })).await;
        assert!(opened["errorText"].is_null(), "{url} cannot be opened: {opened}");
        self.until(&format!("document.readyState === 'complete' && location.href === '{url}'"))
            .await;
    }

    /// Runs a script and returns its value.
    pub async fn run(&mut self, script: &str) -> Value {
        let parameters =
            json!({ "expression": script, "awaitPromise": true, "returnByValue": true });
        let result = self.call("Runtime.evaluate", parameters).await;
        assert!(result["exceptionDetails"].is_null(), "{script} failed: {result}");
        result["result"]["value"].clone()
    }

    /// Waits until a script returns true.
    pub async fn until(&mut self, script: &str) {
        let deadline = std::time::Instant::now() + PATIENCE;
        while self.run(script).await != true {
            if std::time::Instant::now() > deadline {
                let text = self.run("document.body.innerText").await;
                panic!("waited in vain for {script}; the page says:\n{text}");
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }

    /// Types into the element that has the focus.
    pub async fn type_in(&mut self, text: &str) {
        self.call("Input.insertText", json!({ "text": text })).await;
    }

    /// Shows the page with these display settings from now on.
    pub async fn look(&mut self, look: Look) {
        let is_small = look.width < 700;
        let size = json!({ "width": look.width, "height": if is_small { 844 } else { 900 },
            "deviceScaleFactor": if is_small { 2 } else { 1 }, "mobile": is_small });
        self.call("Emulation.setDeviceMetricsOverride", size).await;
        let scheme = json!({ "name": "prefers-color-scheme", "value": look.scheme });
        self.call("Emulation.setEmulatedMedia", json!({ "features": [scheme] })).await;
    }

    /// Saves a screenshot of the whole page in the folder `SPOKE_TEST_PICTURES`, if that is set.
    pub async fn picture(&mut self, name: &str) {
        use base64::Engine;
        let Some(folder) = env::var_os("SPOKE_TEST_PICTURES") else { return };
        let parameters = json!({ "format": "png", "captureBeyondViewport": true });
        let picture = self.call("Page.captureScreenshot", parameters).await;
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(picture["data"].as_str().unwrap_or_default())
            .expect("a picture is base64");
        let folder = Path::new(&folder);
        fs::create_dir_all(folder).expect("the folder for pictures can be made");
        fs::write(folder.join(format!("{name}.png")), bytes).expect("a picture can be written");
    }

    /// The errors that the browser reported so far: exceptions, policy violations, failed loads.
    pub fn complaints(&self) -> &[String] {
        &self.complaints
    }
}

fn installed() -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join("chromium")).find(|program| program.is_file())
}
