"""The Gradio app and its example pieces."""
