"""The command ``bitsperdim init``: a folder with the pipeline, whose stages run the installed package."""
