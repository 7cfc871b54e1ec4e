"""Takes pictures of a page by chromedriver, once the page shows its figures.

    camera.py URL FOLDER NAME:WIDTH:HEIGHT:COLOURS:HASH...
"""

import base64
import json
import re
import subprocess
import sys
import tempfile
import time
import urllib.request

READY = """
const shown = [...document.querySelectorAll('.upstream')].filter((one) => !one.hidden);
return shown.length > 0 && shown.every((one) => one.querySelector('.area') && one.querySelector('[role=meter]'));
"""


def main(url, folder, pictures):
    with tempfile.TemporaryDirectory() as profile:
        driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, text=True)
        try:
            for line in driver.stdout:
                if found := re.search(r"started successfully on port (\d+)", line):
                    break
            take(f"http://127.0.0.1:{found[1]}/session", profile, url, folder, pictures)
        finally:
            driver.terminate()
            driver.wait()


def take(base, profile, url, folder, pictures):
    def tell(path, body, method="POST"):
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(base + path, data, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]

    args = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
            f"--user-data-dir={profile}", "about:blank"]
    wanted = {"pageLoadStrategy": "eager", "goog:chromeOptions": {"args": args}}
    base += "/" + tell("", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
    try:
        for picture in pictures:
            name, width, height, colours, part = picture.split(":")
            size = {"width": int(width), "height": int(height), "deviceScaleFactor": 1, "mobile": False}
            scheme = {"features": [{"name": "prefers-color-scheme", "value": colours}]}
            tell("/goog/cdp/execute", {"cmd": "Emulation.setDeviceMetricsOverride", "params": size})
            tell("/goog/cdp/execute", {"cmd": "Emulation.setEmulatedMedia", "params": scheme})
            tell("/url", {"url": "about:blank"})
            tell("/url", {"url": f"{url}#{part}"})
            for _ in range(200):
                if tell("/execute/sync", {"script": READY, "args": []}):
                    break
                time.sleep(0.1)
            # What moves comes to rest, and the browser's own start is over for the proxy.
            time.sleep(3)
            with open(f"{folder}/{name}.png", "wb") as file:
                file.write(base64.b64decode(tell("/screenshot", None, "GET")))
    finally:
        tell("", None, "DELETE")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
