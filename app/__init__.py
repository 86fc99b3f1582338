"""The page of `midi-rwkv app` (Gradio), its endpoints for programs, and its example pieces."""
