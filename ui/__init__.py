"""What a person sees: the web page; and the HTTP API. Importing this loads no gradio, no torch."""
