# An Apache httpd with a page, from Debian's packages, under the four settings that Warmline mirrors.
FROM debian:bookworm-slim
RUN apt-get update -qq && apt-get install -qq -y --no-install-recommends apache2-bin >/dev/null && rm -rf /var/lib/apt/lists/* \
    && mkdir -p /srv/app /run/apache2 && echo "app-httpd answers" > /srv/app/index.html
COPY httpd.conf /etc/httpd.conf
EXPOSE 80
STOPSIGNAL SIGWINCH
CMD ["apache2", "-D", "FOREGROUND", "-f", "/etc/httpd.conf"]
