"""What a folder is compared with beside another folder: other implementations of the same checkpoint."""
