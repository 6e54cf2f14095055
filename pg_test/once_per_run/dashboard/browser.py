"""A headless Chromium, driven by the WebDriver protocol, which is HTTP with JSON."""

import base64
import json
import os
import subprocess
import tempfile
import urllib.error
import urllib.request

# --no-sandbox: root has no use of it. The others keep it from calling anybody.
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --hide-scrollbars"
).split()

KEYS = {"Tab": "\ue004", "Enter": "\ue007", "Escape": "\ue00c", "Space": " "}


class Driver:
    """The chromedriver process."""

    def __init__(self):
        # What it leaves behind is to go with the test's folder.
        environment = os.environ | {"TMPDIR": os.environ["WORK"]}
        self.process = subprocess.Popen(["chromedriver", "--port=0"], env=environment, stdout=subprocess.PIPE, text=True)
        for line in self.process.stdout:
            if "started successfully on port" in line:
                self.url = "http://127.0.0.1:" + line.split("port")[-1].strip(" .\n")
                return
        raise SystemExit("chromedriver does not start")

    def call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return json.loads(response.read())["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(error.read().decode()[:500]) from None

    def stop(self):
        self.process.terminate()
        self.process.wait(timeout=10)


class Browser:
    """One browser with a profile of its own, in a language."""

    def __init__(self, driver, language, dark=False):
        self.driver = driver
        self.profile = tempfile.mkdtemp(dir=os.environ["WORK"])
        options = {
            "args": [*FLAGS, f"--user-data-dir={self.profile}", f"--lang={language}"],
            "prefs": {"intl.accept_languages": language},
        }
        capabilities = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        session = driver.call("POST", "/session", {"capabilities": {"alwaysMatch": capabilities}})
        self.path = "/session/" + session["sessionId"]
        if dark:
            self.cdp("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
        self.cdp("Emulation.setTimezoneOverride", timezoneId="Asia/Shanghai")

    def cdp(self, command, **parameters):
        return self.driver.call("POST", self.path + "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def size(self, width, height):
        self.cdp("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 700)

    def open(self, url):
        self.driver.call("POST", self.path + "/url", {"url": url})

    def script(self, body):
        """What a function with this body returns, or its promise."""
        return self.driver.call("POST", self.path + "/execute/sync", {"script": body, "args": []})

    def run(self, expression):
        return self.script("return " + expression)

    def keys(self, *keys):
        """Presses and releases keys: characters, or names of KEYS."""
        strokes = [{"type": kind, "value": KEYS.get(key, key)} for key in keys for kind in ("keyDown", "keyUp")]
        self.driver.call("POST", self.path + "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": strokes}]})

    def double_click(self, selector):
        """Two clicks of the mouse at once, as fast as it can."""
        found = self.driver.call("POST", self.path + "/element", {"using": "css selector", "value": selector})
        to = {"type": "pointerMove", "origin": found, "x": 0, "y": 0}
        clicks = [{"type": kind, "button": 0} for kind in ("pointerDown", "pointerUp") * 2]
        self.driver.call("POST", self.path + "/actions", {"actions": [{"type": "pointer", "id": "mouse", "actions": [to, *clicks]}]})

    def focus(self):
        """The id of what has the focus."""
        return self.run("document.activeElement.id")

    def text(self, selector):
        """What the reader sees there; None when it is not shown."""
        return self.run(f"(node => node && node.checkVisibility() ? node.innerText : null)(document.querySelector({json.dumps(selector)}))")

    def texts(self, selector):
        return self.run(f"[...document.querySelectorAll({json.dumps(selector)})].map(node => node.innerText)")

    def complaints(self):
        """Errors of the console since the last call: scripts that failed, and what the policy refused."""
        log = self.driver.call("POST", self.path + "/se/log", {"type": "browser"})
        return [entry["message"] for entry in log if entry["level"] == "SEVERE"]

    def picture(self, name):
        """The whole page, as it is."""
        picture = self.cdp("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        with open(os.path.join(os.environ["SCREENSHOTS"], name + ".png"), "wb") as file:
            file.write(base64.b64decode(picture))

    def stop(self):
        self.driver.call("DELETE", self.path)
