"""The web page of a run or a sweep (`vae app`): Gradio components over `vae.generation`.

Gradio reads these variables when it is imported, so they are set before any module of this
package imports it: nothing is sent to its makers.
"""

import os

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
