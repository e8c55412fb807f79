"""How findings are shown in a browser and a notebook: the page around `view.js`, and the payload that it shows."""
