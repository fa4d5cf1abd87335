//! Chromium, driven over the DevTools protocol: <https://chromedevtools.github.io/devtools-protocol/>.

use std::{
    cell::{Cell, RefCell},
    fs,
    net::{SocketAddr, TcpStream},
    process::{Child, Stdio},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use tungstenite::{Message, WebSocket, client};

use crate::{
    harness::{Folder, WAIT_LIMIT, wait_until},
    program::command,
};

/// A headless browser. Killed on drop.
pub struct Browser {
    child: Child,
    address: SocketAddr,
    /// The path of the browser's own connection.
    path: String,
    _profile: Folder,
}

/// The properties of a tab that a page may depend on.
#[derive(Clone, Copy, Debug)]
pub struct TabOptions {
    pub width: u32,
    pub height: u32,
    pub dark: bool,
    pub scripts: bool,
}

impl Default for TabOptions {
    fn default() -> Self {
        Self { width: 1100, height: 760, dark: false, scripts: true }
    }
}

impl Browser {
    pub fn start() -> Self {
        let profile = Folder::new();
        let mut command = command("chromium");
        command.args(["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", "--no-first-run"]);
        command.args(["--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"]);
        command.arg(format!("--user-data-dir={}", profile.path())).arg("about:blank");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap();
        let file = profile.join("DevToolsActivePort");
        let mut found = None;
        wait_until("chromium has started", || {
            // The port, and the path `/devtools/browser/` with a UUID. The file may not be complete yet.
            let text = fs::read_to_string(&file).unwrap_or_default();
            let parts = text.split_once('\n').filter(|(_, path)| path.len() >= "/devtools/browser/".len() + 36);
            found = parts.and_then(|(port, path)| Some((port.parse::<u16>().ok()?, path.trim().to_owned())));
            found.is_some()
        });
        let (port, path) = found.unwrap();
        Self { child, address: ([127, 0, 0, 1], port).into(), path, _profile: profile }
    }

    /// Opens a page in a new tab, and waits until it is loaded.
    pub fn open(&self, url: &str, options: TabOptions) -> Tab {
        let created = self.connect(&self.path).call("Target.createTarget", json!({"url": "about:blank"}));
        let tab = self.connect(&format!("/devtools/page/{}", created["targetId"].as_str().unwrap()));
        tab.prepare(options);
        tab.go_to(url);
        tab
    }

    fn connect(&self, path: &str) -> Tab {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(WAIT_LIMIT)).unwrap();
        let (socket, _) = client(format!("ws://{}{path}", self.address), stream).unwrap();
        Tab { socket: RefCell::new(socket), sent: Cell::new(0), complaints: RefCell::default() }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub struct Tab {
    socket: RefCell<WebSocket<TcpStream>>,
    /// The number of commands so far.
    sent: Cell<u64>,
    /// Errors, exceptions, violations of the content security policy, and everything that is written to the console.
    complaints: RefCell<Vec<String>>,
}

impl Tab {
    fn prepare(&self, options: TabOptions) {
        for domain in ["Page", "Runtime", "Log"] {
            self.call(&format!("{domain}.enable"), json!({}));
        }
        self.resize(options.width, options.height);
        let scheme = if options.dark { "dark" } else { "light" };
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.call("Emulation.setEmulatedMedia", json!({"features": features}));
        self.call("Emulation.setScriptExecutionDisabled", json!({"value": !options.scripts}));
    }

    pub fn resize(&self, width: u32, height: u32) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.call("Emulation.setDeviceMetricsOverride", size);
    }

    /// Loads a page.
    pub fn go_to(&self, url: &str) {
        self.call("Page.navigate", json!({"url": url}));
        let is_loaded = format!("document.readyState === 'complete' && location.href.startsWith({})", json!(url));
        self.becomes(&is_loaded, true);
    }

    /// The value of an expression in the page.
    pub fn value(&self, expression: &str) -> Value {
        self.evaluate(expression).unwrap_or_else(|error| panic!("{expression}: {error}"))
    }

    /// Waits until an expression has this value. It may fail before, as parts are missing while a page is loaded.
    pub fn becomes(&self, expression: &str, expected: impl Into<Value>) {
        let expected = expected.into();
        wait_until(&format!("`{expression}` is {expected}"), || self.evaluate(expression).as_ref() == Ok(&expected));
    }

    fn evaluate(&self, expression: &str) -> Result<Value, Value> {
        let arguments = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let mut result = self.request("Runtime.evaluate", arguments)?;
        match result.get_mut("exceptionDetails") {
            Some(exception) => Err(exception.take()),
            None => Ok(result["result"]["value"].take()),
        }
    }

    /// Presses a key that produces this text.
    pub fn press(&self, key: &str) {
        self.call("Input.dispatchKeyEvent", json!({"type": "keyDown", "key": key, "text": key}));
        self.call("Input.dispatchKeyEvent", json!({"type": "keyUp", "key": key}));
    }

    /// Types a text into the focused element.
    pub fn write(&self, text: &str) {
        self.call("Input.insertText", json!({"text": text}));
    }

    /// Writes a picture of the visible part of the page into the folder for temporary files of tests.
    pub fn screenshot(&self, name: &str) {
        let result = self.call("Page.captureScreenshot", json!({"format": "png"}));
        let picture = BASE64_STANDARD.decode(result["data"].as_str().unwrap()).unwrap();
        fs::write(format!("{}/{name}.png", env!("CARGO_TARGET_TMPDIR")), picture).unwrap();
    }

    pub fn complaints(&self) -> Vec<String> {
        self.value("0");
        self.complaints.borrow().clone()
    }

    fn call(&self, method: &str, parameters: Value) -> Value {
        self.request(method, parameters).unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    /// The result of a command, or the error with which the browser answers.
    fn request(&self, method: &str, parameters: Value) -> Result<Value, Value> {
        let id = self.sent.get() + 1;
        self.sent.set(id);
        let mut socket = self.socket.borrow_mut();
        let command = json!({"id": id, "method": method, "params": parameters});
        socket.send(Message::text(command.to_string())).unwrap();
        loop {
            let message = socket.read().unwrap_or_else(|error| panic!("{method}: {error}"));
            let Message::Text(text) = message else { continue };
            let mut answer: Value = serde_json::from_str(&text).unwrap();
            if answer["id"] == id {
                return match answer.get_mut("error") {
                    Some(error) => Err(error.take()),
                    None => Ok(answer["result"].take()),
                };
            }
            self.note(&answer);
        }
    }

    fn note(&self, event: &Value) {
        let is_complaint = ["Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"];
        if event["method"].as_str().is_some_and(|method| is_complaint.contains(&method)) {
            self.complaints.borrow_mut().push(event.to_string());
        }
    }
}
