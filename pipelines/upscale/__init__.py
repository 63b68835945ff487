"""Networks that enlarge images: what a model ships with, public ones from files, and the plain way.

`loading.load` makes an upscaler of a file, `enlarging.Upscaler` is what draws with it; `layouts`
tells what a file is without torch.
"""
