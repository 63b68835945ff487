"""What a person sees: the web page. Importing this loads no gradio and no torch."""
